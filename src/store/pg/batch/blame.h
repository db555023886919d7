/*
 * blame.h - rows were refused: is it they, or the table?
 *
 * SQLSTATEs do not tell: a trigger may raise any, and a missing partition has that of a CHECK
 * constraint.  So it is tried.  A refused row is put into metrics once more with another name and
 * value, then at another time: names that are harmless, and such as were stored before.  Nothing
 * of that remains.  What is taken speaks for the table.
 */
#pragma once

#include "buffer/batch.h"
#include "store/pg/link/pg_conn.h"
#include "wire/frame.h"

#define BLAME_GOOD 4
#define BLAME_HINT_MAX 320

/* What a connection remembers for it; all zero at first. */
struct blame {
	struct {
		uint8_t frame[FRAME_MAX];
		bool set;
	} good[BLAME_GOOD]; /* of batches that were stored */
	unsigned next;
	uint64_t table_until_ms; /* until then, what refuses like that is the table at once */
	char table_sqlstate[6];
	char hint[BLAME_HINT_MAX];
};

enum blame_verdict {
	BLAME_ROWS,  /* the table takes others, or names the constraint that they violate */
	BLAME_CHUNK, /* it takes those of other times only: a partition or chunk is to blame */
	BLAME_TABLE, /* it takes none */
};

/* A batch was stored. */
void blame_note_good(struct blame *b, const struct batch_view *batch);

/* Was the table to blame for this error a short while ago? */
bool blame_expects_table(const struct blame *b, const struct store_error *err);

/*
 * Judges a frame that was refused, in an open transaction that is none the worse for it.  stored is
 * a frame of the same batch that was taken; NULL: there is none.  STORE_OK with a verdict; if that
 * is not BLAME_ROWS, err says what the row met, with a hint that is good until the next call.
 */
enum store_status blame_judge(struct blame *b, struct pg_conn *c, const uint8_t *refused,
			      const uint8_t *stored, enum blame_verdict *ret,
			      struct store_error *err);

/*
 * Did RAISE of PL/pgSQL make the last error?  Then somebody meant a row to be refused, whatever the
 * SQLSTATE says.
 */
bool blame_raised(const struct pg_conn *c);

/* Corrects what was made of the SQLSTATE of such an error. */
enum store_status blame_correct(const struct pg_conn *c, enum store_status st,
				struct store_error *err);

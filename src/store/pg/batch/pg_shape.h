/*
 * pg_shape.h - how a batch goes to PostgreSQL: in which order, by which way, and what of it.
 *
 * Rows are sorted by (metric_name, time).  Where that is sound and asked for, they go straight into
 * the columnstore.  Rows that would create too many chunks are left out, for the rejected table.
 */
#pragma once

#include "store/pg/batch/isolate.h"
#include "store/pg/batch/pg_table.h"
#include "store/pg/batch/sort.h"

/* What a connection keeps for it. */
struct pg_shaper {
	const struct conf *conf; /* borrowed */
	struct sort sort;
	struct pg_table table;
	bool told;           /* direct_compress has been logged */
	const char *told_as; /* what was said to be in its way; NULL: nothing */
	bool direct_failed;  /* the server did not take it; until the table is read again */
};

/* A batch's. */
struct pg_shape {
	struct batch_view accepted;     /* the batch, without the rows that are refused */
	struct sort_order order;        /* of accepted; rows is NULL: as they stand */
	bool direct;                    /* straight into the columnstore */
	struct isolate_refused refused; /* no rows: none */
	uint8_t *split;                 /* what accepted and refused point into; NULL: the batch */
	const char *unit;               /* that the refused times seem to have; NULL: unknown */
	char error[96];                 /* of refused */
};

void pg_shaper_init(struct pg_shaper *s, const struct conf *conf);
void pg_shaper_done(struct pg_shaper *s); /* a zeroed one is fine */

/*
 * Looks at the table: when connecting, now and then, and when it may have changed.  Logs
 * direct_compress {usable, reason} once, and when that changes.
 */
enum store_status pg_shaper_refresh(struct pg_shaper *s, struct pg_conn *c,
				    struct store_error *err);

/* The server did not take what went straight into the columnstore; logs direct_compress. */
void pg_shaper_failed(struct pg_shaper *s, const struct store_error *err);

/*
 * Shapes a batch.  Asks the server only when the batch could create more than table.max_new_chunks
 * chunks.  ret is good until the next call with s, and is given to pg_shape_done() even after a
 * failure.
 */
enum store_status pg_shape(struct pg_shaper *s, struct pg_conn *c, const struct batch_view *b,
			   struct pg_shape *ret, struct store_error *err);
void pg_shape_done(struct pg_shape *shape);

/* The rows to be copied. */
void pg_shape_copy(const struct pg_shape *shape, struct copy *ret);

/*
 * For the start of the transaction of a direct one.  A constraint that came since the table was
 * looked at counts.
 */
#define PG_SHAPE_DIRECT                                                                          \
	"SELECT pg_catalog.set_config('timescaledb.enable_direct_compress_copy', 'on', true)"    \
	" WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index"                                     \
	" WHERE indrelid = 'metrics'::pg_catalog.regclass AND (indisunique OR indisexclusion));" \
	"SET LOCAL timescaledb.enable_direct_compress_copy_client_sorted = off"

/* Logs chunk_limit, if rows were refused. */
void pg_shape_log(const struct pg_shape *shape);

#include "buffer/spool/spool_judge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STEP ((size_t)1 << 20)

struct judge {
	const struct spool_content *c; /* borrowed */
	const struct spool_walk *w;    /* borrowed */
	struct spool_verdict *v;       /* borrowed */

	/* what was read, and is needed yet */
	uint8_t *data;
	size_t len, room;
	uint64_t next; /* offset of what is read next */
};

static void
judge_block(void *arg, size_t offset, const uint8_t *frames, uint32_t len, uint32_t rows)
{
	const struct judge *j = arg;

	if (j->w->block)
		j->w->block(j->w->arg, SPOOL_FILE_HEADER + offset, frames, len, rows);
}

static void
note_damage(const struct judge *j, size_t offset, size_t len)
{
	j->v->damaged += len;
	if (len && j->w->damage)
		j->w->damage(j->w->arg, offset, len);
}

static void
judge_damage(void *arg, size_t offset, size_t len)
{
	note_damage(arg, SPOOL_FILE_HEADER + offset, len);
}

static int
judge_header(struct judge *j, uint64_t number)
{
	struct spool_verdict *v = j->v;
	uint8_t header[SPOOL_FILE_HEADER];
	size_t len;
	int r = j->c->get(j->c->arg, header, sizeof(header), 0, &len);

	if (r < 0)
		return r;
	j->next = len;
	r = spool_header_decode(header, len, &v->header);
	if (r == -ENOTSUP)
		return r;
	v->header_sound = r == 0;
	v->other_number = v->header_sound && v->header.number != number;
	if (!v->header_sound)
		note_damage(j, 0, len);
	return 0;
}

/* Reads the next piece behind what is there; 0 at the end. */
static int
read_on(struct judge *j)
{
	size_t got;
	int r;

	if (j->room - j->len < STEP) {
		size_t room = j->len + STEP;
		uint8_t *grown = realloc(j->data, room);

		if (!grown)
			return -ENOMEM;
		j->data = grown;
		j->room = room;
	}
	r = j->c->get(j->c->arg, j->data + j->len, STEP, j->next, &got);
	if (r < 0)
		return r;
	j->len += got;
	j->next += got;
	return got > 0;
}

static void
pass_hole(struct judge *j, struct spool_walker *k)
{
	uint64_t to = spool_walk_may_skip(k) ? j->c->next(j->c->arg, j->next) : j->next;

	spool_walk_skip(k, to - j->next);
	j->next = to;
}

static int
judge_blocks(struct judge *j)
{
	const struct spool_walk walk = {judge_block, judge_damage, j};
	uint64_t size = j->c->size > SPOOL_FILE_HEADER ? j->c->size - SPOOL_FILE_HEADER : 0;
	struct spool_walker k;
	int r;

	spool_walk_begin(&k, size, &walk, &j->v->sound);
	while ((r = read_on(j)) > 0) {
		size_t done = spool_walk_on(&k, j->data, j->len);

		j->len -= done;
		memmove(j->data, j->data + done, j->len);
		if (j->len == 0)
			pass_hole(j, &k);
	}
	if (r == 0)
		j->v->torn = spool_walk_end(&k, j->data, j->len);
	return r;
}

int
spool_judge(const struct spool_content *c, uint64_t number, const struct spool_walk *w,
	    struct spool_verdict *ret)
{
	struct judge j = {.c = c, .w = w, .v = ret};
	int r;

	memset(ret, 0, sizeof(*ret));
	r = judge_header(&j, number);
	if (r == 0 && j.next == SPOOL_FILE_HEADER)
		r = judge_blocks(&j);
	free(j.data);
	if (r < 0)
		return r;
	ret->size = j.next;
	ret->sound.file_size =
	    SPOOL_FILE_HEADER + (uint64_t)ret->sound.blocks * SPOOL_BLOCK_HEADER + ret->sound.bytes;
	if (!ret->header.sealed)
		return 0;
	note_damage(&j, (size_t)ret->size - ret->torn, ret->torn); /* it was whole once */
	ret->torn = 0;
	ret->differs = ret->sound.rows != ret->header.summary.rows ||
		       ret->size != ret->header.summary.file_size;
	return 0;
}

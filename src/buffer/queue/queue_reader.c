/*
 * queue_reader.c - the thread that reads batches back whose memory was given up.
 *
 * Writers get only what is in memory, so that a disk that does not answer holds up what it alone
 * has, and nothing else.  A few batches are read ahead, so that writers do not wait for it
 * otherwise.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"
#include "buffer/queue/queue_internal.h"
#include "log/log.h"

#define READ_AGAIN_MS 1000 /* after an error of the disk's */

/*
 * The oldest, and one that level 2 waits for, in turn; the mutex is held.  While no writer can store
 * anything, nothing is read: a batch that is being read could not be dropped as the oldest.
 */
static struct batch *
next_to_read(struct queue *q)
{
	struct batch *wanted;

	if (q->away || q->read_ahead >= READ_AHEAD)
		return NULL;
	wanted = q->read_wanted ? TAILQ_FIRST(&q->to_read.wanted) : NULL;
	q->read_wanted = !q->read_wanted;
	return wanted ? wanted : queue_due_first(&q->to_read);
}

static struct batch *
take_to_read(struct queue *q)
{
	struct batch *b = NULL;

	(void)pthread_mutex_lock(&q->mutex);
	q->reading = false;
	while (!q->reader_stop && !(b = next_to_read(q)))
		(void)pthread_cond_wait(&q->read_cond, &q->mutex);
	if (b)
		queue_detach(q, b);
	q->reading = b != NULL;
	(void)pthread_mutex_unlock(&q->mutex);
	return b;
}

static void
give(struct queue *q, struct batch *b)
{
	(void)pthread_mutex_lock(&q->mutex);
	queue_attach(q, b, 0);
	(void)pthread_cond_broadcast(&q->cond);
	(void)pthread_mutex_unlock(&q->mutex);
}

static const char *
hint_for(int r)
{
	switch (r) {
	case -EACCES:
	case -EPERM:
		return "the batch's file stays where it is, and is tried again: give it to the "
		       "daemon's user, as the spool's other files are";
	case -EIO:
		return "the batch's file stays where it is, and is tried again; what can be read "
		       "of it, 'metric-spool repair --apply' saves while the daemon is stopped";
	default:
		return NULL;
	}
}

static void
say_failed(const struct batch *b, int error)
{
	log_event_limited(LOG_ERR, "spool_read_failed/batch", "spool_read_failed",
			  LOG_U64("batch", b->number), LOG_STR("error", strerror(-error)),
			  b->lost ? LOG_U64("lost", b->lost) : LOG_NONE,
			  LOG_STR("hint", hint_for(error)));
}

static void
read_back(struct queue *q, struct batch *b)
{
	bool damaged;
	int r = spool_read(q->spool, b->number, &b->loaded, &b->content, &damaged);

	if (damaged)
		disk_repair(q->disk, b->number, r == -ENODATA);
	if (r == 0) {
		give(q, b);
	} else if (r == -ENODATA || r == -ENOENT) {
		b->lost = b->all.rows;
		say_failed(b, r);
		queue_done(q, b);
	} else {
		say_failed(b, r);
		queue_return(q, b, READ_AGAIN_MS);
	}
}

static void *
reader_main(void *arg)
{
	struct queue *q = arg;
	struct batch *b;

	while ((b = take_to_read(q)))
		read_back(q, b);
	(void)pthread_mutex_lock(&q->mutex);
	q->reader_over = true;
	(void)pthread_cond_broadcast(&q->cond);
	(void)pthread_mutex_unlock(&q->mutex);
	return NULL;
}

int
queue_start_reader(struct queue *q)
{
	int r = thread_start(&q->reader, "reader", reader_main, q);

	q->reader_started = r == 0;
	return r;
}

bool
queue_stop_reader(struct queue *q, uint64_t ms)
{
	uint64_t until_ms = clock_ms() + ms;
	const struct timespec until = clock_timespec(until_ms);
	bool over;

	(void)pthread_mutex_lock(&q->mutex);
	q->reader_stop = true;
	(void)pthread_cond_signal(&q->read_cond);
	while (q->reader_started && !q->reader_over && clock_ms() < until_ms)
		(void)pthread_cond_timedwait(&q->cond, &q->mutex, &until);
	over = !q->reader_started || q->reader_over;
	(void)pthread_mutex_unlock(&q->mutex);
	return over;
}

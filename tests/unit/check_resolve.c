/*
 * check_resolve.c - names to addresses in a thread that may be left behind.
 *
 * getaddrinfo() is the test's own, which answers when it is told to.
 */
#include <check.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "store/pg/link/resolve.h"

#define FOREVER_MS 40000

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static bool answering; /* under mutex */
static int freed;      /* lists; under mutex */
static int stop_fd;

/* Of "unknown" there is no address, of every other name one. */
int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
	    struct addrinfo **ret)
{
	struct addrinfo *list;

	(void)pthread_mutex_lock(&mutex);
	while (!answering)
		(void)pthread_cond_wait(&cond, &mutex);
	(void)pthread_mutex_unlock(&mutex);
	if (strcmp(name, "unknown") == 0)
		return EAI_NONAME;
	list = calloc(1, sizeof(*list));
	if (!list)
		return EAI_MEMORY;
	ck_assert_ptr_null(service);
	list->ai_socktype = hints->ai_socktype;
	*ret = list;
	return 0;
}

void
freeaddrinfo(struct addrinfo *list)
{
	free(list);
	(void)pthread_mutex_lock(&mutex);
	freed++;
	(void)pthread_cond_broadcast(&cond);
	(void)pthread_mutex_unlock(&mutex);
}

static void
answer(void)
{
	(void)pthread_mutex_lock(&mutex);
	answering = true;
	(void)pthread_cond_broadcast(&cond);
	(void)pthread_mutex_unlock(&mutex);
}

static void
wait_until_freed(int n)
{
	(void)pthread_mutex_lock(&mutex);
	while (freed < n)
		(void)pthread_cond_wait(&cond, &mutex);
	(void)pthread_mutex_unlock(&mutex);
}

static void
stop(void)
{
	ck_assert_int_eq(eventfd_write(stop_fd, 1), 0);
}

static void
setup(void)
{
	answering = false;
	freed = 0;
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_ge(stop_fd, 0);
}

static void
teardown(void)
{
	ck_assert_int_eq(close(stop_fd), 0);
}

START_TEST(gives_the_list_away)
{
	struct addrinfo *list = NULL;
	const char *why = NULL;

	answer();
	ck_assert_int_eq(resolve("host", stop_fd, FOREVER_MS, &list, &why), 0);
	ck_assert_ptr_nonnull(list);
	ck_assert_int_eq(list->ai_socktype, SOCK_STREAM);
	ck_assert_ptr_null(why);
	freeaddrinfo(list);
	ck_assert_int_eq(freed, 1);
}
END_TEST

START_TEST(says_why_there_is_none)
{
	struct addrinfo *list = NULL;
	const char *why = NULL;

	answer();
	ck_assert_int_eq(resolve("unknown", stop_fd, FOREVER_MS, &list, &why), -ENOENT);
	ck_assert_ptr_null(list);
	ck_assert_str_eq(why, gai_strerror(EAI_NONAME));
}
END_TEST

/* What is left behind frees the answer that nobody waits for any more, and itself. */
START_TEST(gives_up_in_time)
{
	struct addrinfo *list = NULL;
	const char *why = NULL;

	ck_assert_int_eq(resolve("host", stop_fd, 10, &list, &why), -ETIMEDOUT);
	ck_assert_ptr_null(list);
	answer();
	wait_until_freed(1);
}
END_TEST

START_TEST(stops_at_once)
{
	struct addrinfo *list = NULL;
	const char *why = NULL;

	stop();
	ck_assert_int_eq(resolve("host", stop_fd, FOREVER_MS, &list, &why), -ECANCELED);
	ck_assert_ptr_null(list);
	answer();
	wait_until_freed(1);
}
END_TEST

/* Each asks for itself, also while an earlier thread still hangs. */
START_TEST(asks_again_after_giving_up)
{
	struct addrinfo *list = NULL;
	const char *why = NULL;

	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(resolve("host", stop_fd, 0, &list, &why), -ETIMEDOUT);
	answer();
	wait_until_freed(5);
	ck_assert_int_eq(resolve("host", stop_fd, FOREVER_MS, &list, &why), 0);
	freeaddrinfo(list);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("resolve");
	TCase *tc = tcase_create("resolve");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, gives_the_list_away);
	tcase_add_test(tc, says_why_there_is_none);
	tcase_add_test(tc, gives_up_in_time);
	tcase_add_test(tc, stops_at_once);
	tcase_add_test(tc, asks_again_after_giving_up);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

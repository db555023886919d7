/* The log and the journal, for which the test stands in. */
#include "log/log.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "log_test.h"
#include "log/log_event.h"

static struct {
	int calls, result, connect_errno;
	bool hangs;
	sem_t called, go_on;           /* while it hangs */
	char entry[4 * LOG_EVENT_MAX]; /* the fields of the last entry, a line each */
	size_t len;
} journal;

/* These stand before libsystemd's: what would go to journald comes here. */
int
sd_journal_sendv(const struct iovec *iov, int n)
{
	if (journal.hangs) {
		(void)sem_post(&journal.called);
		(void)sem_wait(&journal.go_on);
	}
	journal.calls++;
	journal.len = 0;
	for (int i = 0; i < n; i++) {
		memcpy(journal.entry + journal.len, iov[i].iov_base, iov[i].iov_len);
		journal.len += iov[i].iov_len;
		journal.entry[journal.len++] = '\n';
	}
	journal.entry[journal.len] = '\0';
	return journal.result;
}

/* And what looks for its socket. */
int
connect(int fd, const struct sockaddr *sa, socklen_t len)
{
	struct sockaddr_un un;
	int type;
	socklen_t size = sizeof(type);

	ck_assert_uint_eq(len, sizeof(un));
	memcpy(&un, sa, sizeof(un));
	ck_assert_int_eq(un.sun_family, AF_UNIX);
	ck_assert_str_eq(un.sun_path, "/run/systemd/journal/socket");
	ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size), 0);
	ck_assert_int_eq(type, SOCK_DGRAM); /* which never waits for who accepts */
	errno = journal.connect_errno;
	return errno ? -1 : 0;
}

/* The entry behind its MESSAGE, and the message with its timestamp made "T". */
static const char *
entry(char message[300])
{
	char *p, *end = strchr(journal.entry, '\n');

	ck_assert_ptr_nonnull(end);
	ck_assert_int_lt(end - journal.entry, 300);
	memcpy(message, journal.entry, (size_t)(end - journal.entry));
	message[end - journal.entry] = '\0';
	p = strstr(message, "\"timestamp\":\"");
	ck_assert_ptr_nonnull(p);
	p += strlen("\"timestamp\":\"");
	*p = 'T';
	memmove(p + 1, p + 27, strlen(p + 27) + 1);
	return end + 1;
}

START_TEST(journal_fields)
{
	char message[300];
	const char *fields;

	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_INFO), 0);
	log_event(LOG_WARNING, "row_rejected", LOG_STR("metric", "a\"b"), LOG_U64("rows", 7),
		  LOG_F64("value", NAN), LOG_BOOL("again", false), LOG_HEX("frame", "\xAB\x01", 2),
		  LOG_TIME("time_2", 0), LOG_STR("none", NULL));
	fields = entry(message);
	ck_assert_str_eq(message, "MESSAGE={\"event\":\"row_rejected\",\"timestamp\":\"T\""
				  ",\"level\":\"warning\",\"metric\":\"a\\\"b\",\"rows\":7"
				  ",\"value\":\"NaN\",\"again\":false,\"frame\":\"ab01\""
				  ",\"time_2\":\"1970-01-01T00:00:00.000000Z\"}");
	ck_assert_str_eq(fields, "PRIORITY=4\nSYSLOG_IDENTIFIER=metric-collectord\n"
				 "EVENT=row_rejected\nMETRIC=a\"b\nROWS=7\nVALUE=NaN\nAGAIN=false\n"
				 "FRAME=ab01\nTIME_2=1970-01-01T00:00:00.000000Z\n");
	ck_assert_str_eq(captured(), "");
}
END_TEST

/* A field cannot be taken for one of the entry's own; the JSON text has it. */
START_TEST(journal_reserved_fields)
{
	char message[300];

	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_DEBUG), 0);
	log_event(LOG_INFO, "e", LOG_U64("priority", 0), LOG_STR("syslog_identifier", "sshd"),
		  LOG_STR("message_id", "x"));
	ck_assert_str_eq(entry(message),
			 "PRIORITY=6\nSYSLOG_IDENTIFIER=metric-collectord\nEVENT=e\n");
	log_debug("hello");
	ck_assert_str_eq(entry(message),
			 "PRIORITY=7\nSYSLOG_IDENTIFIER=metric-collectord\nEVENT=debug\n");
	ck_assert_str_eq(message, "MESSAGE={\"event\":\"debug\",\"timestamp\":\"T\""
				  ",\"level\":\"debug\",\"message\":\"hello\"}");
}
END_TEST

START_TEST(journal_suppressed)
{
	char message[300];

	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_INFO), 0);
	for (int i = 0; i < 3; i++)
		refuse(i);
	ck_assert_int_eq(journal.calls, 1);
	clock_now += 1000;
	log_tick();
	ck_assert_int_eq(journal.calls, 2);
	ck_assert_str_eq(entry(message), "PRIORITY=4\nSYSLOG_IDENTIFIER=metric-collectord\n"
					 "EVENT=refused\nSUPPRESSED=1\nI=2\n");
}
END_TEST

/* What does not fit into an entry is left out of its fields; the entry goes out all the same. */
START_TEST(journal_entry_is_bounded)
{
	char *s = repeat("x", 200000), number[] = "N=18446744073709551615\n";
	struct log_field fields[100];
	const char *p = journal.entry;
	size_t numbers = 0, strings = 0;

	for (size_t i = 0; i < COUNT(fields) - 1; i++)
		fields[i] = i < 5 ? LOG_STR("s", s) : LOG_U64("n", UINT64_MAX);
	fields[COUNT(fields) - 1] = LOG_END;
	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_INFO), 0);
	log_fields(LOG_INFO, "big", fields);
	for (; (p = strstr(p, "\nS=")); p++, strings++)
		ck_assert_uint_eq(strspn(p + 3, "x"), LOG_VALUE_MAX);
	for (p = journal.entry; (p = strstr(p, number)); p++)
		numbers++;
	ck_assert_uint_eq(strings, 3); /* a fourth would be past the entry's bytes */
	ck_assert_uint_eq(numbers, 64 - 1 - 3 - strings);
	free(s);
}
END_TEST

START_TEST(journal_failure_falls_back)
{
	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_INFO), 0);
	journal.result = -EPERM;
	log_event(LOG_INFO, "e", LOG_U64("n", 1));
	ck_assert_int_eq(journal.calls, 1);
	ck_assert_str_eq(captured(), LINE("e", "info", ",\"n\":1"));
}
END_TEST

START_TEST(no_journal)
{
	journal.connect_errno = ENOENT;
	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_DEBUG), -ENOENT);
	log_event(LOG_DEBUG, "e");
	ck_assert_int_eq(journal.calls, 0);
	ck_assert_str_eq(captured(), LINE("e", "debug", ""));
}
END_TEST

/* D and I stand for the device and the inode of stderr. */
static const struct {
	const char *value; /* NULL: not set */
	bool ours;
} streams[] = {
    {NULL, false},
    {"D:I", true},
    {"D:1I", false},
    {"1D:I", false},
    {"D", false},
    {"D:", false},
    {":I", false},
    {"D:I:1", false},
    {"D:I ", false},
    {"", false},
    {"D I", false},
    {"I:D", false},
    {"D:I00000000000000000000", false},
};

static void
set_journal_stream(const char *pattern)
{
	char value[200] = "";
	struct stat st;

	ck_assert_int_eq(fstat(STDERR_FILENO, &st), 0);
	ck_assert_int_eq(unsetenv("JOURNAL_STREAM"), 0);
	if (!pattern)
		return;
	for (const char *p = pattern; *p; p++) {
		char *end = value + strlen(value);
		size_t room = sizeof(value) - strlen(value);

		if (*p == 'D' || *p == 'I')
			(void)snprintf(end, room, "%ju",
				       *p == 'D' ? (uintmax_t)st.st_dev : (uintmax_t)st.st_ino);
		else
			(void)snprintf(end, room, "%c", *p);
	}
	ck_assert_int_eq(setenv("JOURNAL_STREAM", value, 1), 0);
}

START_TEST(journal_stream)
{
	set_journal_stream(streams[_i].value);
	ck_assert_int_eq(log_is_journal(STDERR_FILENO), streams[_i].ours);
	ck_assert(!log_is_journal(STDOUT_FILENO));
	ck_assert(!log_is_journal(-1));
	ck_assert_int_eq(log_open(LOG_TARGET_AUTO, LOG_INFO), 0);
	log_event(LOG_INFO, "e");
	ck_assert_int_eq(journal.calls, streams[_i].ours);
	ck_assert_str_eq(captured(), streams[_i].ours ? "" : LINE("e", "info", ""));
}
END_TEST

/* A reload may change the target; stderr was asked for, whatever it is. */
START_TEST(target_changes)
{
	set_journal_stream("D:I");
	ck_assert_int_eq(log_open(LOG_TARGET_STDERR, LOG_INFO), 0);
	log_event(LOG_INFO, "a");
	ck_assert_int_eq(log_open(LOG_TARGET_AUTO, LOG_INFO), 0);
	log_event(LOG_INFO, "b");
	ck_assert_int_eq(log_open(LOG_TARGET_STDERR, LOG_INFO), 0);
	log_event(LOG_INFO, "c");
	ck_assert_int_eq(journal.calls, 1);
	ck_assert_str_eq(captured(), LINE("a", "info", "") LINE("c", "info", ""));
}
END_TEST

static void
start_with_hanging_journal(void)
{
	journal.hangs = true;
	ck_assert_int_eq(sem_init(&journal.called, 0, 0), 0);
	ck_assert_int_eq(sem_init(&journal.go_on, 0, 0), 0);
	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_INFO), 0);
	ck_assert_int_eq(log_start(), 0);
}

/* A journald that stops reading holds nobody up, and gets everything with its fields later. */
START_TEST(hanging_journal)
{
	char message[300];

	start_with_hanging_journal();
	log_event(LOG_INFO, "first");
	(void)sem_wait(&journal.called);
	for (int i = 0; i < 100; i++)
		log_event(LOG_INFO, "e", LOG_I64("i", i));
	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_INFO), 0); /* a reload */
	ck_assert_int_eq(journal.calls, 0);
	for (int i = 0; i <= 100; i++)
		(void)sem_post(&journal.go_on);
	log_close();
	ck_assert_int_eq(journal.calls, 101);
	ck_assert_str_eq(entry(message), "PRIORITY=6\nSYSLOG_IDENTIFIER=metric-collectord\n"
					 "EVENT=e\nI=99\n");
	ck_assert_str_eq(captured(), "");
}
END_TEST

/* What a reload turned to stderr goes there, and what came before to the journal. */
START_TEST(target_changes_with_the_thread)
{
	start_with_hanging_journal();
	log_event(LOG_INFO, "a");
	ck_assert_int_eq(log_open(LOG_TARGET_STDERR, LOG_INFO), 0);
	log_event(LOG_INFO, "b");
	(void)sem_post(&journal.go_on);
	log_close();
	ck_assert_int_eq(journal.calls, 1);
	ck_assert_str_eq(captured(), LINE("b", "info", ""));
}
END_TEST

START_TEST(journal_failure_falls_back_in_the_thread)
{
	ck_assert_int_eq(log_open(LOG_TARGET_JOURNAL, LOG_INFO), 0);
	ck_assert_int_eq(log_start(), 0);
	journal.result = -EPERM;
	log_event(LOG_INFO, "e", LOG_U64("n", 1));
	log_close();
	ck_assert_int_eq(journal.calls, 1);
	ck_assert_str_eq(captured(), LINE("e", "info", ",\"n\":1"));
}
END_TEST

START_TEST(close_gives_a_hanging_journal_up)
{
	start_with_hanging_journal();
	log_event(LOG_INFO, "lost");
	log_close();
	ck_assert_str_eq(captured(), "");
}
END_TEST

static void
add_thread(TCase *tc)
{
	tcase_add_test(tc, hanging_journal);
	tcase_add_test(tc, target_changes_with_the_thread);
	tcase_add_test(tc, journal_failure_falls_back_in_the_thread);
	tcase_add_test(tc, close_gives_a_hanging_journal_up);
}

static void
add_journal(TCase *tc)
{
	tcase_add_test(tc, journal_fields);
	tcase_add_test(tc, journal_reserved_fields);
	tcase_add_test(tc, journal_suppressed);
	tcase_add_test(tc, journal_entry_is_bounded);
	tcase_add_test(tc, journal_failure_falls_back);
	tcase_add_test(tc, no_journal);
	tcase_add_loop_test(tc, journal_stream, 0, (int)COUNT(streams));
	tcase_add_test(tc, target_changes);
}

int
main(void)
{
	Suite *s = suite_create("log_journal");
	SRunner *sr = srunner_create(s);
	int failed;

	add_journal(new_case(s, "journal", capture));
	add_thread(new_case(s, "thread", capture));

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

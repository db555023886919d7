#include "store/pg/link/pg_error.h"

#include <check.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/pg/batch/sieve.h"
#include "wire/utf8.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct {
	const char *sqlstate;
	enum pg_class class;
	bool reconnect;
	bool batch_only;
} states[] = {
    {"", PG_RETRY, false, false},        /* no answer at all */
    {"08000", PG_RETRY, true, false},    /* connection_exception */
    {"08006", PG_RETRY, true, false},    /* connection_failure */
    {"08P01", PG_RETRY, true, false},    /* protocol_violation; also from PgBouncer */
    {"22001", PG_ISOLATE, false, false}, /* string_data_right_truncation */
    {"22003", PG_ISOLATE, false, false}, /* numeric_value_out_of_range */
    {"22021", PG_ISOLATE, false, false}, /* character_not_in_repertoire */
    {"22P05", PG_ISOLATE, false, false}, /* untranslatable_character */
    {"23502", PG_ISOLATE, false, false}, /* not_null_violation */
    {"23505", PG_ISOLATE, false, false}, /* unique_violation */
    {"23514", PG_ISOLATE, false, false}, /* check_violation */
    {"23P01", PG_ISOLATE, false, false}, /* exclusion_violation */
    {"25001", PG_HOLD, false, false},    /* active_sql_transaction */
    {"25006", PG_RETRY, true, false},    /* read_only_sql_transaction */
    {"25P02", PG_HOLD, false, false},    /* in_failed_sql_transaction */
    {"25P03", PG_RETRY, true, false},    /* idle_in_transaction_session_timeout */
    {"28000", PG_HOLD, false, false},    /* invalid_authorization_specification */
    {"28P01", PG_HOLD, false, false},    /* invalid_password */
    {"3D000", PG_HOLD, false, false},    /* invalid_catalog_name */
    {"3F000", PG_HOLD, false, false},    /* invalid_schema_name */
    {"40001", PG_RETRY, false, true},    /* serialization_failure */
    {"40P01", PG_RETRY, false, true},    /* deadlock_detected */
    {"42501", PG_HOLD, false, false},    /* insufficient_privilege */
    {"42601", PG_HOLD, false, false},    /* syntax_error */
    {"42703", PG_HOLD, false, false},    /* undefined_column */
    {"42804", PG_HOLD, false, false},    /* datatype_mismatch */
    {"42P01", PG_HOLD, false, false},    /* undefined_table */
    {"53100", PG_RETRY, false, false},   /* disk_full */
    {"53200", PG_RETRY, false, false},   /* out_of_memory */
    {"53300", PG_RETRY, false, false},   /* too_many_connections */
    {"54000", PG_HOLD, false, false},    /* program_limit_exceeded */
    {"55000", PG_HOLD, false, false},    /* object_not_in_prerequisite_state */
    {"55006", PG_HOLD, false, false},    /* object_in_use */
    {"55P03", PG_RETRY, false, true},    /* lock_not_available */
    {"57014", PG_RETRY, false, false},   /* query_canceled */
    {"57P01", PG_RETRY, false, false},   /* admin_shutdown */
    {"57P03", PG_RETRY, false, false},   /* cannot_connect_now */
    {"58030", PG_RETRY, false, false},   /* io_error */
    {"P0001", PG_ISOLATE, false, false}, /* raise_exception */
    {"P0004", PG_ISOLATE, false, false}, /* assert_failure */
    {"XX000", PG_HOLD, false, false},    /* internal_error */
    {"XX001", PG_HOLD, false, false},    /* data_corrupted */
    {"TS001", PG_HOLD, false, false},    /* TimescaleDB's own */
    {"ZZ999", PG_HOLD, false, false},    /* nobody's */
};

START_TEST(a_sqlstate_has_a_class)
{
	const char *sqlstate = states[_i].sqlstate;
	enum store_status expected = states[_i].class == PG_RETRY ? STORE_RETRY : STORE_HOLD;
	struct store_error err;

	ck_assert_int_eq(pg_error_class(sqlstate), states[_i].class);
	ck_assert_int_eq(pg_error_reconnect(sqlstate), states[_i].reconnect);
	ck_assert_int_eq(pg_error_set(&err, sqlstate, "text", NULL, true), expected);
	ck_assert_str_eq(err.sqlstate, sqlstate);
	ck_assert_str_eq(err.text, "text");
	ck_assert_int_eq(err.reconnect, states[_i].reconnect);
	ck_assert_int_eq(err.batch_only, states[_i].batch_only);
	/* a connection that is gone must always be made anew */
	ck_assert_int_eq(pg_error_set(&err, sqlstate, "text", NULL, false), expected);
	ck_assert(err.reconnect);
}
END_TEST

static const struct {
	const char *text; /* libpq's */
	const char *part; /* of the hint; NULL: none */
} obstacles[] = {
    {"root certificate file \"/x.crt\" does not exist", "sslrootcert"},
    {"could not read root certificate file \"/x.crt\": no certificate or crl found", "sslrootcert"},
    {"SSL error: certificate verify failed", "sslrootcert"},
    {"server certificate for \"a\" does not match host name \"b\"", "verify-ca"},
    {"private key file \"/x.key\" has group or world access; permissions must be ...", "chmod 600"},
    {"private key file \"/x.key\" must be owned by the current user or root", "chown"},
    {"certificate present, but not private key file \"/x.key\"", "sslkey"},
    {"could not read certificate file \"/x.crt\": no start line", "sslcert"},
    {"SSL error: tlsv1 alert unknown ca", "trust"},
    {"server does not support SSL, but SSL was required", "ssl"},
    {"connection refused", NULL},
};

START_TEST(obstacles_have_hints)
{
	const char *hint = pg_error_obstacle(obstacles[_i].text);

	if (obstacles[_i].part)
		ck_assert_ptr_nonnull(strstr(hint, obstacles[_i].part));
	else
		ck_assert_ptr_null(hint);
}
END_TEST

/* Where the server tries rows, it knows the passing troubles by a pattern. */
START_TEST(the_sieve_has_the_same_classes)
{
	const char *sqlstate = states[_i].sqlstate;
	regex_t passing;

	ck_assert_int_eq(regcomp(&passing, SIEVE_PASSING, REG_EXTENDED | REG_NOSUB), 0);
	if (*sqlstate)
		ck_assert_int_eq(regexec(&passing, sqlstate, 0, NULL, 0) == 0,
				 states[_i].class == PG_RETRY);
	regfree(&passing);
}
END_TEST

START_TEST(operators_get_hints)
{
	static const char *const with[] = {"28P01", "28000", "3D000", "42501", "42P01",
					   "42703", "42804", "XX000", "XX001", "53100"};
	size_t i;

	for (i = 0; i < COUNT(with); i++)
		ck_assert_ptr_nonnull(pg_error_hint(with[i]));
	ck_assert_ptr_ne(pg_error_hint("28P01"), pg_error_hint("28000"));
	ck_assert_ptr_null(pg_error_hint("40P01"));
	ck_assert_ptr_null(pg_error_hint(""));
}
END_TEST

/* Texts of PgBouncer 1.18 to 1.25, as libpq hands them on. */
static const struct {
	const char *text;
	const char *sqlstate;
	enum store_status status;
} poolers[] = {
    {"FATAL: database \"m\" does not exist", "3D000", STORE_HOLD},
    {"FATAL: database \"other\" does not exist", "08P01", STORE_RETRY},
    {"FATAL: no such database: m", "08P01", STORE_HOLD},
    {"FATAL: unsupported startup parameter: options", "08P01", STORE_HOLD},
    {"FATAL: no such user", "28000", STORE_HOLD},
    {"FATAL: \"trust\" authentication failed", "28000", STORE_HOLD},
    {"FATAL: login rejected", "28000", STORE_HOLD},
    {"FATAL: password authentication failed", "28P01", STORE_HOLD},
    {"FATAL: SASL authentication failed", "28P01", STORE_HOLD},
    {"FATAL: password authentication failed for user \"u\"", "28P01", STORE_HOLD},
    {"FATAL: server login has been failing, try again later (server_login_retry)", "08P01",
     STORE_RETRY},
    {"FATAL: server login has been failing, cached error: database \"m\" does not exist"
     " (server_login_retry)",
     "08P01", STORE_RETRY},
    {"FATAL: no more connections allowed (max_client_conn)", "08P01", STORE_RETRY},
    {"FATAL: query_wait_timeout", "08P01", STORE_RETRY},
    {"FATAL: the database system is shutting down", "08P01", STORE_RETRY},
};

START_TEST(what_poolers_refuse)
{
	struct store_error err;

	(void)pg_error_set(&err, "08P01", poolers[_i].text, NULL, false);
	ck_assert_int_eq(pg_error_pooler(&err, "m"), poolers[_i].status);
	ck_assert_str_eq(err.sqlstate, poolers[_i].sqlstate);
	ck_assert_str_eq(err.text, poolers[_i].text);
	ck_assert_int_eq(err.hint != NULL, poolers[_i].status == STORE_HOLD);
	ck_assert(err.reconnect);
	/* a server's own errors are none of a pooler */
	(void)pg_error_set(&err, "57P03", poolers[_i].text, NULL, false);
	ck_assert_int_eq(pg_error_pooler(&err, "m"), STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "57P03");
}
END_TEST

START_TEST(reasons)
{
	ck_assert_str_eq(pg_error_reason("22003"), "value");
	ck_assert_str_eq(pg_error_reason("23514"), "constraint");
	ck_assert_str_eq(pg_error_reason("P0001"), "trigger");
	ck_assert_str_eq(pg_error_reason("55000"), "other");
}
END_TEST

START_TEST(texts_are_tidied)
{
	struct store_error err;

	(void)pg_error_set(&err, "23514", "  two\n\tlines\n", "and a\ndetail.", true);
	ck_assert_str_eq(err.text, "two lines (and a detail.)");
	(void)pg_error_set(&err, "", "", NULL, true);
	ck_assert_str_eq(err.text, "");
	/* a server of another kind may send anything */
	(void)pg_error_set(&err, "123456789", "x", NULL, true);
	ck_assert_str_eq(err.sqlstate, "");
}
END_TEST

/* Cut texts stay UTF-8, wherever the cut falls. */
START_TEST(long_texts_are_cut_between_characters)
{
	char text[3 * STORE_ERROR_MAX];
	struct store_error err;
	size_t len = (size_t)_i;

	memset(text, 'x', len);
	while (len < 2 * STORE_ERROR_MAX) {
		memcpy(text + len, "\xE2\x82\xAC", 3); /* the sign of the euro */
		len += 3;
	}
	text[len] = '\0';
	(void)pg_error_set(&err, "22001", text, NULL, true);
	ck_assert_uint_gt(strlen(err.text), STORE_ERROR_MAX - 4);
	ck_assert_uint_lt(strlen(err.text), STORE_ERROR_MAX);
	ck_assert_int_eq(utf8_check((const uint8_t *)err.text, strlen(err.text)), UTF8_OK);
}
END_TEST

static const struct {
	const char *message, *sqlstate, *rest;
} messages[] = {
    {"connection to server on socket \"/tmp/.s.PGSQL.5432\" failed: FATAL:  3D000: database "
     "\"x\" does not exist\nLOCATION:  InitPostgres, postinit.c:1055\n",
     "3D000",
     "connection to server on socket \"/tmp/.s.PGSQL.5432\" failed: FATAL: database \"x\" does "
     "not exist"},
    {"connection to server at \"db\" (192.0.2.1), port 5432 failed: FATAL:  28P01: password "
     "authentication failed for user \"u\"\n",
     "28P01",
     "connection to server at \"db\" (192.0.2.1), port 5432 failed: FATAL: password "
     "authentication failed for user \"u\"\n"},
    {"... Schwerwiegend:  57P03: das Datenbanksystem startet\nORT:  ProcessStartupPacket, "
     "postmaster.c:2411\n",
     "57P03", "... Schwerwiegend: das Datenbanksystem startet"},
    {"connection to server on socket \"/tmp/.s.PGSQL.5432\" failed: No such file or directory\n"
     "\tIs the server running locally and accepting connections on that socket?\n",
     "",
     "connection to server on socket \"/tmp/.s.PGSQL.5432\" failed: No such file or directory\n"
     "\tIs the server running locally and accepting connections on that socket?\n"},
    {"FATAL:  3D00", "", "FATAL:  3D00"},
    {"FATAL:  3D000", "", "FATAL:  3D000"},
    {"FATAL:  abcde: lower case", "", "FATAL:  abcde: lower case"},
    {"", "", ""},
};

START_TEST(sqlstates_of_connections)
{
	char text[512], sqlstate[6];

	(void)snprintf(text, sizeof(text), "%s", messages[_i].message);
	pg_error_extract(text, sqlstate);
	ck_assert_str_eq(sqlstate, messages[_i].sqlstate);
	ck_assert_str_eq(text, messages[_i].rest);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("pg_error");
	TCase *tc = tcase_create("pg_error");
	SRunner *sr;
	int failed;

	tcase_add_loop_test(tc, a_sqlstate_has_a_class, 0, (int)COUNT(states));
	tcase_add_loop_test(tc, the_sieve_has_the_same_classes, 0, (int)COUNT(states));
	tcase_add_test(tc, operators_get_hints);
	tcase_add_loop_test(tc, obstacles_have_hints, 0, (int)COUNT(obstacles));
	tcase_add_loop_test(tc, what_poolers_refuse, 0, (int)COUNT(poolers));
	tcase_add_test(tc, reasons);
	tcase_add_test(tc, texts_are_tidied);
	tcase_add_loop_test(tc, long_texts_are_cut_between_characters, 0, 6);
	tcase_add_loop_test(tc, sqlstates_of_connections, 0, (int)COUNT(messages));
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#include "conf/conf_scan.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf_value.h"

#define DEPTH_MAX 8

struct scan {
	struct conf_file *f;
	char *p; /* the rest of the text, which ends with a NUL */
	char *start;
	unsigned line;
	unsigned open[DEPTH_MAX]; /* the lines of the braces that are open */
	unsigned depth;           /* may pass DEPTH_MAX */
	bool in_word;             /* where // and slash-star are no comments */
	int error;                /* -ENOMEM: a problem got lost */
};

#define SCAN_PROBLEM(s, line, ...)                                      \
	do {                                                            \
		if (conf_file_problem((s)->f, (line), __VA_ARGS__) < 0) \
			(s)->error = -ENOMEM;                           \
	} while (0)

static void
scan_step(struct scan *s)
{
	if (*s->p == '\n')
		s->line++;
	s->p++;
}

static void
scan_blank(struct scan *s)
{
	if (*s->p != '\n')
		*s->p = ' ';
	else
		s->line++;
	s->p++;
}

static void
scan_line_comment(struct scan *s)
{
	while (*s->p && *s->p != '\n')
		scan_blank(s);
}

static void
scan_block_comment(struct scan *s)
{
	unsigned first = s->line;

	scan_blank(s);
	scan_blank(s);
	while (*s->p && !(s->p[0] == '*' && s->p[1] == '/'))
		scan_blank(s);
	if (!*s->p) {
		SCAN_PROBLEM(s, first, "this comment has no end");
		s->depth = 0; /* the closing braces are in there, no doubt */
		return;
	}
	scan_blank(s);
	scan_blank(s);
}

/* What else stands there may be a part of a password. */
static bool
is_variable(const char *name)
{
	static const char chars[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";

	return name[strspn(name, chars)] == '\0';
}

/* At "${NAME}" or "${NAME:-default}". */
static void
scan_variable(struct scan *s)
{
	size_t len = strcspn(s->p, "}\"\n");
	char *name, *colon, shown[CONF_VALUE_SHOWN];

	if (s->p[len] != '}') {
		SCAN_PROBLEM(s, s->line, "'${' without '}'");
		s->p += 2;
		return;
	}
	name = strndup(s->p + 2, len - 2);
	if (!name) {
		s->error = -ENOMEM;
		return;
	}
	colon = strstr(name, ":-");
	if (!colon && !getenv(name))
		SCAN_PROBLEM(s, s->line, "environment variable %s is not set",
			     is_variable(name) ? conf_value_show(name, shown) : "...");
	free(name);
	s->p += len + 1;
}

static void
scan_string(struct scan *s)
{
	unsigned first = s->line;
	char quote = *s->p++;

	while (*s->p && *s->p != quote) {
		if (quote == '"' && s->p[0] == '$' && s->p[1] == '{') {
			scan_variable(s);
			continue;
		}
		if (*s->p == '\\') {
			/* libconfuse refuses some of them and then stays inside the string. */
			if (quote == '"' && s->p[1] >= '0' && s->p[1] <= '9')
				SCAN_PROBLEM(s, s->line, "'\\%c': numeric escapes are not accepted",
					     s->p[1]);
			s->p++;
		}
		if (*s->p)
			scan_step(s);
	}
	if (!*s->p) {
		SCAN_PROBLEM(s, first, "this string has no end");
		s->depth = 0; /* the closing braces are in there, no doubt */
		return;
	}
	s->p++;
}

static char *
scan_back(const struct scan *s, char *p)
{
	while (p > s->start && strchr(" \t\r\n", p[-1]))
		p--;
	return p > s->start ? p - 1 : NULL;
}

/* At '}': "= {}" becomes a word. */
static void
scan_empty_list(struct scan *s)
{
	char *brace = scan_back(s, s->p);
	char *equals = brace && *brace == '{' ? scan_back(s, brace) : NULL;

	if (!equals || *equals != '=')
		return;
	*brace = CONF_SCAN_EMPTY;
	*s->p = ' ';
}

static void
scan_brace(struct scan *s)
{
	if (*s->p == '{') {
		if (s->depth < DEPTH_MAX)
			s->open[s->depth] = s->line;
		s->depth++;
	} else if (s->depth > 0) {
		s->depth--;
		scan_empty_list(s);
	}
	s->p++;
}

static void
scan_token(struct scan *s)
{
	char c = *s->p;

	if (c == '#' || (!s->in_word && c == '/' && s->p[1] == '/')) {
		scan_line_comment(s);
	} else if (!s->in_word && c == '/' && s->p[1] == '*') {
		scan_block_comment(s);
	} else if (c == '"' || c == '\'') {
		scan_string(s);
	} else if (c == '$' && s->p[1] == '{') {
		scan_variable(s);
	} else if (c == '{' || c == '}') {
		scan_brace(s);
	} else {
		if (c == '*' || c == '+')
			SCAN_PROBLEM(s, s->line, "'%c' must stand within quotes", c);
		scan_step(s);
	}
	s->in_word = !strchr(" #\"'\t\n\r={}()+,*", c);
}

int
conf_scan(struct conf_file *f, char *text)
{
	struct scan s = {.f = f, .p = text, .start = text, .line = 1};

	if (strncmp(text, "\xEF\xBB\xBF", 3) == 0) /* the byte order mark of some editors */
		memset(text, ' ', 3);
	for (const char *p = text; *p; p++) {
		if ((unsigned char)*p < ' ' && !strchr("\t\r\n", *p)) {
			SCAN_PROBLEM(&s, s.line, "control byte 0x%02x", (unsigned)*p);
			return s.error;
		}
		s.line += *p == '\n';
	}
	s.line = 1;
	while (*s.p && !s.error)
		scan_token(&s);
	if (s.depth > 0)
		SCAN_PROBLEM(&s, s.open[s.depth > DEPTH_MAX ? DEPTH_MAX - 1 : s.depth - 1],
			     "this '{' has no '}'");
	return s.error;
}

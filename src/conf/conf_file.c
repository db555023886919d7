#include "conf/conf_file.h"

#include <assert.h>
#include <confuse.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf_read.h"
#include "conf/conf_scan.h"
#include "conf/conf_uri.h"

/* ---- problems ---- */

static int
problem_add(struct conf_file *f, unsigned line, char *text)
{
	struct conf_problem *p;

	p = reallocarray(f->problems, f->n_problems + 1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	for (char *c = text; *c; c++) {
		if ((unsigned char)*c < ' ') /* each is one line */
			*c = '?';
	}
	f->problems = p;
	p[f->n_problems++] = (struct conf_problem){.line = line, .text = text};
	return 0;
}

int
conf_file_problem(struct conf_file *f, unsigned line, const char *fmt, ...)
{
	va_list ap;
	char *text;
	int r;

	va_start(ap, fmt);
	r = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (r < 0)
		return -ENOMEM;
	r = problem_add(f, line, text);
	if (r < 0)
		free(text);
	return r;
}

/* By insertion: there are few, nearly in order, and those of one line keep theirs. */
void
conf_file_sort(struct conf_file *f)
{
	for (size_t i = 1; i < f->n_problems; i++) {
		struct conf_problem p = f->problems[i];
		size_t at = i;

		for (; at > 0 && f->problems[at - 1].line > p.line; at--)
			f->problems[at] = f->problems[at - 1];
		f->problems[at] = p;
	}
}

static void
problems_clear(struct conf_file *f)
{
	for (size_t i = 0; i < f->n_problems; i++)
		free(f->problems[i].text);
	f->n_problems = 0;
}

/* ---- entries ---- */

static void
entries_clear(struct conf_file *f)
{
	for (size_t i = 0; i < f->n_entries; i++) {
		for (size_t v = 0; v < f->entries[i].n; v++)
			free(f->entries[i].values[v]);
		free(f->entries[i].values);
	}
	f->n_entries = 0;
}

static int
entry_add(struct conf_file *f, const char *key, unsigned line)
{
	struct conf_entry *e;

	e = reallocarray(f->entries, f->n_entries + 1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	f->entries = e;
	e[f->n_entries++] = (struct conf_entry){.key = key, .line = line};
	return 0;
}

static int
entry_add_value(struct conf_entry *e, const char *value)
{
	char **values;

	values = reallocarray(e->values, e->n + 1, sizeof(*values));
	if (!values)
		return -ENOMEM;
	e->values = values;
	values[e->n] = strdup(value);
	if (!values[e->n])
		return -ENOMEM;
	e->n++;
	return 0;
}

/* ---- libconfuse ---- */

#define KEYS_MAX 64 /* keys in one section */
#define SECTIONS_MAX 16
#define UNKNOWN_MAX 32 /* unknown names that are reported at once */

/* A name that the file uses and nobody knows: declared in the next pass, to get beyond it. */
struct unknown {
	char *section; /* "" = none */
	char *name;
	unsigned line;
	bool is_section;
	bool hidden; /* see may_show() */
};

struct parse {
	struct conf_file *f;
	const char *const *keys;
	size_t n_keys;
	char *text;
	struct unknown unknown[UNKNOWN_MAX];
	size_t n_unknown;
	cfg_t *root;
	int error;
};

/*
 * libconfuse's callbacks carry no argument.  Its scanner is global as well, so that this
 * takes nothing away; it is set only while cfg_parse_buf() runs.
 */
static struct parse *parsing;

static const char *
section_of(const cfg_t *cfg)
{
	return cfg == parsing->root ? "" : cfg->name;
}

/* "batch.interval" is "interval" in "batch". */
static bool
key_is(const char *key, const char *section, const char *name)
{
	size_t len = strlen(section);

	if (len == 0)
		return strcmp(key, name) == 0;
	return strncmp(key, section, len) == 0 && key[len] == '.' &&
	       strcmp(key + len + 1, name) == 0;
}

static const char *
find_key(const struct parse *p, const char *section, const char *name)
{
	for (size_t i = 0; i < p->n_keys; i++) {
		if (key_is(p->keys[i], section, name))
			return p->keys[i];
	}
	return NULL;
}

/* Is this the name of a section with keys of its own? */
static bool
is_section(const struct parse *p, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < p->n_keys; i++) {
		if (strncmp(p->keys[i], name, len) == 0 && p->keys[i][len] == '.')
			return true;
	}
	return false;
}

/* The next place in the text, from p on, where this name is followed by '{': a section is meant. */
static char *
find_section(const char *text, char *p, const char *name)
{
	for (; p && (p = strstr(p, name)) != NULL; p++) {
		const char *behind = p + strlen(name);

		if ((p == text || strchr(" \t\r\n{}\"'", p[-1])) &&
		    behind[strspn(behind, "\"' \t\r\n")] == '{')
			return p;
	}
	return NULL;
}

static char *
find_line(char *text, unsigned line)
{
	while (--line > 0 && text)
		text = strchr(text, '\n') ? strchr(text, '\n') + 1 : NULL;
	return text;
}

/* Past the string at p. */
static char *
skip_string(char *p)
{
	char quote = *p++;

	for (; *p && *p != quote; p++) {
		if (*p == '\\' && p[1])
			p++;
	}
	return *p ? p + 1 : p;
}

/* Blanks out what stands between the next '{' and its '}', so that nothing in it is an error. */
static void
empty_section(char *section)
{
	unsigned depth = 1;
	char *p = strchr(section, '{') + 1, *next;

	while (*p) {
		if (*p == '{')
			depth++;
		else if (*p == '}' && --depth == 0)
			return;
		next = *p == '"' || *p == '\'' ? skip_string(p) : p + 1;
		for (; p < next; p++) {
			if (*p != '\n')
				*p = ' ';
		}
	}
}

/* Is a section meant?  Then its content is of no interest, here and wherever it comes again. */
static bool
dismiss_section(char *text, unsigned line, const char *name)
{
	char *start = find_line(text, line);
	char *section = find_section(text, start, name);

	if (!section || section > start + strcspn(start, "\n"))
		return false;
	for (; section; section = find_section(text, section + 1, name))
		empty_section(section);
	return true;
}

/* ---- what must not be shown ---- */

#define HIDDEN "(not shown, since its line may hold a password)"

/* Copies a line for conf_may_hold_secret(); NULL when memory is short. */
static char *
copy_line(const struct parse *p, unsigned line)
{
	const char *start = find_line(p->text, line);

	return start ? strndup(start, strcspn(start, "\n")) : strdup("");
}

/* Does this word stand where the name of a key does: first in its line or section, before '='? */
static bool
stands_as_key(const char *line, const char *word)
{
	for (const char *at = line; (at = strstr(at, word)) != NULL; at++) {
		const char *before = at, *behind = at + strlen(word);

		while (before > line && strchr(" \t", before[-1]))
			before--;
		if ((before == line || strchr("{}", before[-1])) &&
		    behind[strspn(behind, " \t")] == '=')
			return true;
	}
	return false;
}

/*
 * A quote within a password ends the string, and what follows it is taken for names.  Only what
 * is surely the name of a key is shown of a line that may hold a password.
 */
static bool
may_show(const struct parse *p, unsigned line, const char *word)
{
	char *text = copy_line(p, line);
	bool may = text && (!conf_may_hold_secret(text) || (word && stands_as_key(text, word)));

	free(text);
	return may;
}

static void
note_unknown(struct parse *p, const char *section, unsigned line, const char *name)
{
	struct unknown *u = &p->unknown[p->n_unknown];

	if (p->n_unknown == UNKNOWN_MAX)
		return;
	u->line = line;
	u->hidden = !may_show(p, line, name);
	u->is_section = dismiss_section(p->text, line, name);
	u->section = strdup(section);
	u->name = strdup(name);
	p->n_unknown++;
	if (!u->section || !u->name)
		p->error = -ENOMEM;
}

static bool
noted_unknown(const struct parse *p, const char *section, const char *name)
{
	for (size_t i = 0; i < p->n_unknown; i++) {
		if (strcmp(p->unknown[i].section, section) == 0 &&
		    strcmp(p->unknown[i].name, name) == 0)
			return true;
	}
	return false;
}

static void __attribute__((format(printf, 2, 0))) on_error(cfg_t *cfg, const char *fmt, va_list ap)
{
	struct parse *p = parsing;
	const char *section = section_of(cfg);
	unsigned line = (unsigned)cfg->line;
	char *text;

	if (p->error || (*section && !is_section(p, section)))
		return; /* whatever else is wrong in an unknown section */
	if (vasprintf(&text, fmt, ap) < 0) {
		p->error = -ENOMEM;
		return;
	}
	if (strcmp(fmt, "no such option '%s'") == 0) {
		char *name = strchr(text, '\'') + 1;

		name[strlen(name) - 1] = '\0';
		if (*name && !noted_unknown(p, section, name) && (*section || !is_section(p, name)))
			note_unknown(p, section, line, name);
		else if (conf_file_problem(p->f, line, "\"%s\": unknown key",
					   may_show(p, line, name) ? name : "...") < 0)
			p->error = -ENOMEM;
	} else {
		for (char *c = text; *c; c++) {
			if (*c == CONF_SCAN_EMPTY) /* as it was written */
				*c = '{';
		}
		if (conf_file_problem(p->f, line, "syntax error: %s",
				      may_show(p, line, NULL) ? text : HIDDEN) < 0)
			p->error = -ENOMEM;
	}
	free(text);
}

/* Called with each value; every option is a list, which begins anew with '='. */
static int
on_value(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
	struct parse *p = parsing;
	const char *key = find_key(p, section_of(cfg), opt->name);
	int r = 0;

	*(const char **)result = ""; /* it is kept here, not there */
	if (!key)                    /* "section|key", which libconfuse follows */
		r = conf_file_problem(p->f, (unsigned)cfg->line,
				      "%s: write it into its section, between { and }", opt->name);
	else if (opt->nvalues == 1)
		r = entry_add(p->f, key, (unsigned)cfg->line);
	if (key && r == 0 && !(value[0] == CONF_SCAN_EMPTY && value[1] == '\0'))
		r = entry_add_value(&p->f->entries[p->f->n_entries - 1], value);
	if (r < 0)
		p->error = r;
	return r < 0 ? -1 : 0;
}

static int
on_unknown_value(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
	(void)cfg;
	(void)opt;
	(void)value;
	*(const char **)result = "";
	return 0;
}

/* The declarations, as libconfuse wants them; it copies them. */
struct options {
	cfg_opt_t root[KEYS_MAX + SECTIONS_MAX + UNKNOWN_MAX + 1];
	cfg_opt_t section[SECTIONS_MAX][KEYS_MAX + UNKNOWN_MAX + 1];
	size_t n_root;
	size_t n_section[SECTIONS_MAX];
	char name[SECTIONS_MAX][64];
	size_t n_sections;
};

static void
option_add(struct options *o, size_t section, cfg_opt_t opt)
{
	if (section == SECTIONS_MAX)
		o->root[o->n_root++] = opt;
	else
		o->section[section][o->n_section[section]++] = opt;
}

/* The section's index; SECTIONS_MAX for "" (the root). */
static size_t
section_index(struct options *o, const char *name, size_t len)
{
	if (len == 0)
		return SECTIONS_MAX;
	for (size_t i = 0; i < o->n_sections; i++) {
		if (strlen(o->name[i]) == len && strncmp(o->name[i], name, len) == 0)
			return i;
	}
	assert(o->n_sections < SECTIONS_MAX && len < sizeof(o->name[0]));
	memcpy(o->name[o->n_sections], name, len);
	return o->n_sections++;
}

static void
declare(struct options *o, const struct parse *p)
{
	for (size_t i = 0; i < p->n_keys; i++) {
		const char *dot = strchr(p->keys[i], '.');
		size_t len = dot ? (size_t)(dot - p->keys[i]) : 0;

		option_add(o, section_index(o, p->keys[i], len),
			   (cfg_opt_t){.name = dot ? dot + 1 : p->keys[i],
				       .type = CFGT_STR,
				       .flags = CFGF_LIST | CFGF_NODEFAULT,
				       .parsecb = on_value});
	}
	for (size_t i = 0; i < p->n_unknown; i++) {
		const struct unknown *u = &p->unknown[i];
		static cfg_opt_t none[] = {CFG_END()};
		cfg_opt_t key = {.name = u->name,
				 .type = CFGT_STR,
				 .flags = CFGF_LIST | CFGF_NODEFAULT,
				 .parsecb = on_unknown_value};
		cfg_opt_t section = {
		    .name = u->name, .type = CFGT_SEC, .flags = CFGF_KEYSTRVAL, .subopts = none};

		option_add(o, section_index(o, u->section, strlen(u->section)),
			   u->is_section ? section : key);
	}
	for (size_t i = 0; i < o->n_sections; i++)
		option_add(
		    o, SECTIONS_MAX,
		    (cfg_opt_t){.name = o->name[i], .type = CFGT_SEC, .subopts = o->section[i]});
}

static int
parse_pass(struct parse *p)
{
	struct options *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	declare(o, p);
	p->root = cfg_init(o->root, CFGF_NONE);
	free(o);
	if (!p->root)
		return -ENOMEM;
	(void)cfg_set_error_function(p->root, on_error);
	parsing = p;
	/* Only names that are empty strings are refused in silence, and memory that is short. */
	if (cfg_parse_buf(p->root, p->text) != CFG_SUCCESS && p->f->n_problems == 0 &&
	    p->n_unknown == 0 && p->error == 0)
		p->error = conf_file_problem(p->f, (unsigned)p->root->line,
					     "syntax error: from here on a name is missing");
	parsing = NULL;
	(void)cfg_free(p->root);
	return p->error;
}

/* "max_rows" for "batch.max_rows": perhaps just the wrong place. */
static const char *
similar_key(const struct parse *p, const char *name)
{
	for (size_t i = 0; i < p->n_keys; i++) {
		const char *dot = strchr(p->keys[i], '.');

		if (strcmp(p->keys[i], name) == 0 || (dot && strcmp(dot + 1, name) == 0))
			return p->keys[i];
	}
	return NULL;
}

static int
report_unknown(const struct parse *p, const struct unknown *u)
{
	const char *similar = u->is_section ? NULL : similar_key(p, u->name);
	const char *dot = similar ? strchr(similar, '.') : NULL;
	const char *between = *u->section ? "." : "";

	if (u->hidden)
		return conf_file_problem(p->f, u->line, "unknown key " HIDDEN);
	if (dot && strcmp(similar, u->name) == 0)
		return conf_file_problem(p->f, u->line, "%s: write it as %.*s { %s = ... }",
					 u->name, (int)(dot - similar), similar, dot + 1);
	if (similar)
		return conf_file_problem(p->f, u->line, "%s%s%s: unknown key; did you mean %s?",
					 u->section, between, u->name, similar);
	return conf_file_problem(p->f, u->line, "%s%s%s: unknown %s", u->section, between, u->name,
				 u->is_section ? "section" : "key");
}

/*
 * libconfuse stops at the first name that it does not know.  So each pass that finds one is
 * followed by another, in which the name is declared.
 */
static int
parse_text(struct parse *p)
{
	size_t before;
	int r;

	do {
		before = p->n_unknown;
		problems_clear(p->f);
		entries_clear(p->f);
		r = parse_pass(p);
	} while (r == 0 && p->n_unknown > before);
	for (size_t i = 0; i < p->n_unknown; i++) {
		if (r == 0)
			r = report_unknown(p, &p->unknown[i]);
		free(p->unknown[i].section);
		free(p->unknown[i].name);
	}
	return r;
}

/* ---- the file ---- */

static int
parse_file(struct conf_file *f, char *text, size_t len, const char *const *keys, size_t n_keys)
{
	struct parse p = {.f = f, .keys = keys, .n_keys = n_keys, .text = text};
	int r;

	if (strlen(text) != len)
		return conf_file_problem(f, 0, "is not a text file: it holds NUL bytes");
	r = conf_scan(f, text);
	if (r < 0 || f->n_problems > 0)
		return r;
	return parse_text(&p);
}

int
conf_file_read(const char *path, const char *const *keys, size_t n_keys, struct conf_file **ret)
{
	struct conf_file *f = calloc(1, sizeof(*f));
	char *text = malloc(CONF_FILE_MAX + 1);
	size_t len = 0;
	int r = -ENOMEM;

	if (!f || !text)
		goto out;
	f->path = strdup(path);
	if (!f->path)
		goto out;
	r = conf_read(path, text, CONF_FILE_MAX + 1, &len);
	if (r < 0)
		goto out;
	text[len] = '\0';
	r = parse_file(f, text, len, keys, n_keys);
	if (r < 0)
		goto out;
	conf_file_sort(f);
	free(text);
	*ret = f;
	return 0;
out:
	free(text);
	conf_file_free(f);
	return r;
}

void
conf_file_free(struct conf_file *f)
{
	if (!f)
		return;
	entries_clear(f);
	problems_clear(f);
	free(f->entries);
	free(f->problems);
	free(f->path);
	free(f);
}

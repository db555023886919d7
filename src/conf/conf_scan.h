/*
 * conf_scan.h - what has to happen to a configuration file before libconfuse sees it.
 */
#pragma once

#include "conf/conf_file.h"

/* A word that stands for {}: libconfuse has no callback for that.  Files cannot contain it. */
#define CONF_SCAN_EMPTY '\1'

/*
 * Blanks out comments and replaces empty lists, line by line in place, and adds what cannot be
 * read to the problems of f.  When there are any, libconfuse must not get the text.  Returns 0
 * or -ENOMEM.
 */
int conf_scan(struct conf_file *f, char *text);

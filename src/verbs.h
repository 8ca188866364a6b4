/*
 * The command line: every verb, declared once in a table with its usage, options and help. Parsing,
 * --help and a test of the manuals work from it. Exit codes are those of meridian(1).
 */
#ifndef SRC_VERBS_H
#define SRC_VERBS_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/attribute.h"
#include "src/base/buf.h"
#include "src/base/err.h"

enum exit_code { EXIT_OK = 0, EXIT_RETRY = 1, EXIT_USAGE = 2, EXIT_OPERATOR = 7 };

#define VERB_OPTIONS_MAX 8
#define VERB_GIVEN_MAX 64
#define VERB_OPERANDS_MAX 4096

struct verb_option {
	char letter;	      /* -o; 0: none */
	const char *name;     /* --timeout; NULL: none */
	const char *argument; /* its name in the help; NULL: a flag */
	const char *help;
};

/* What was typed. Everything is borrowed from argv. */
struct verb_arguments {
	struct {
		const struct verb_option *option;
		const char *value; /* NULL for a flag */
	} given[VERB_GIVEN_MAX];
	unsigned givens;
	const char *operand[VERB_OPERANDS_MAX];
	unsigned operands;
};

struct verb {
	const char *name;     /* "mount", "config check" */
	const char *operands; /* "VOLUME|CONFIG MOUNTPOINT", "" */
	unsigned min, max;    /* number of operands */
	const char *summary;  /* one line */
	const char *detail;   /* "" or lines of help, each with its newline */
	struct verb_option
		option[VERB_OPTIONS_MAX]; /* ends with the first that has neither letter nor name */
	int (*run)(const struct verb_arguments
			*a); /* returns an enum exit_code; prints its own errors */
};

extern const struct verb verbs[];
extern const size_t verb_count;

/* Runs the program. argv[0] named mount.* or a first operand that is no verb makes it a mount. */
int verbs_main(int argc, char **argv);

/* Splits argv[0 … argc-1] (without the verb). -EINVAL with a text that names the nearest known
 * option. */
int verb_parse(const struct verb *v, int argc, char *const *argv, struct verb_arguments *ret,
	struct err *err) MUST_CHECK;
/* The last value given for the option with that letter or name; "" for a flag; NULL when absent. */
const char *verb_given(const struct verb_arguments *a, const char *letter_or_name);

/* Prints the help of one verb, or of all. */
void verb_help(const struct verb *v, struct buf *out);
void verbs_help(struct buf *out);

/* Prints "meridian: text" (the text may have a second line "hint: …") and returns code. */
int verb_fail(int code, const struct err *err);
/* The exit code for an errno: who could heal it? */
int verb_exit_code(int r);

int verb_mount(const struct verb_arguments *a);
int verb_umount(const struct verb_arguments *a);
int verb_status(const struct verb_arguments *a);
int verb_flush(const struct verb_arguments *a);
int verb_evict(const struct verb_arguments *a);
int verb_warmup(const struct verb_arguments *a);
int verb_reconcile(const struct verb_arguments *a);
int verb_check(const struct verb_arguments *a);
int verb_config_check(const struct verb_arguments *a);
int verb_config_show(const struct verb_arguments *a);

/* As mount(8) calls it: mount.meridian SOURCE MOUNTPOINT [-sfnv] [-o LIST] [-t TYPE]. */
int verb_mount_helper(int argc, char *const *argv);

#endif

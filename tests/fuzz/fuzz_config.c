/*
 * Configuration files and mount options. The first byte chooses. What is accepted must print as a
 * configuration that is accepted and prints the same; what is refused must say why, in printable
 * text.
 */
#include <string.h>

#include "src/config.h"
#include "src/mount_options.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void check_text(const struct err *err)
{
	CHECK(err->text[0]);
	for (const char *c = err->text; *c; c++)
		CHECK((unsigned char)*c >= 0x20 || *c == '\n' || *c == '\t');
}

/* The printed form without what follows the values and the title. */
static void normalise(struct buf *b)
{
	char *out = (char *)b->data, *to;

	(void)buf_str(b);
	to = out = (char *)b->data;
	for (char *line = out; *line;) {
		char *end = strchrnul(line, '\n'), *next = *end ? end + 1 : end,
		     *cut = memmem(line, (size_t)(end - line), " ; default", 10);

		if (cut)
			end = cut;
		while (end > line && end[-1] == ' ')
			end--;
		memmove(to, line, (size_t)(end - line));
		to += end - line;
		*to++ = '\n';
		line = next;
	}
	b->len = (size_t)(to - out);
}

static void fuzz_file(const char *p, size_t n)
{
	struct config *c AUTO_CONFIG = NULL, *again AUTO_CONFIG = NULL;
	struct buf one CLEANUP(buf_done) = {0}, two CLEANUP(buf_done) = {0};
	struct err err = {0};

	if (config_parse(p, n, "/etc/meridian/fuzz.conf", NULL, 0, &c, &err) < 0) {
		check_text(&err);
		return;
	}
	CHECK(c->regions >= 1 && c->regions <= CONFIG_REGION_MAX && c->home_index < c->regions);
	config_print(c, &one);
	/* Expanded values and values with a comment's look or blanks at the end do not survive
	 * being written; long ones need a long line. */
	if (memmem(p, n, "${", 2) || memmem(p, n, ";", 1) || memmem(p, n, "\"", 1) == NULL)
		return;
	if (config_parse((char *)one.data, one.len, "/etc/meridian/fuzz.conf", NULL, 0, &again,
		    &err) < 0) {
		CHECK(strstr(err.text, "line longer"));
		return;
	}
	config_print(again, &two);
	normalise(&one);
	normalise(&two);
	CHECK(one.len == two.len && memcmp(one.data, two.data, one.len) == 0);
}

static void fuzz_mount_list(const char *p, size_t n)
{
	struct mount_options m CLEANUP(mount_options_done) = {0};
	char *list AUTO_FREE = strndup(p, n);
	struct err err = {0};

	CHECK(list);
	if (mount_options_parse(&m, list, &err) < 0)
		CHECK(err.text[0]);
	for (size_t i = 0; i < m.overrides; i++)
		CHECK(option_find(
			config_volume_options, config_volume_option_count, m.override[i].name));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n == 0)
		return 0;
	if (p[0] & 1)
		fuzz_file((const char *)p + 1, n - 1);
	else
		fuzz_mount_list((const char *)p + 1, n - 1);
	return 0;
}

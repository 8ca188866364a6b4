/*
 * JSON over jansson. The writer keeps the chain of open containers; the reader hands out members
 * of the outermost object only.
 *
 * Writer invariant: open[0 .. depth) is the path from the root to the innermost open container; an
 * entry is NULL once failed is set, and then nothing more is built. No lock: one user at a time.
 */
#include "src/base/json.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include <jansson.h>

#include "src/base/buf.h"

#define WRITE_DEPTH_MAX 16
#define PARSE_BYTES_MAX ((size_t)1 << 20)
#define PARSE_DEPTH_MAX 32

struct json {
	json_t *root;
	json_t *open[WRITE_DEPTH_MAX]; /* borrowed from root */
	int depth;
	bool failed;
};

struct json_object {
	json_t *root;
};

/* Length of the well-formed UTF-8 sequence at s (RFC 3629), 0 when there is none. The NUL at the
 * end stops every look-ahead. */
static size_t utf8_length(const uint8_t *s)
{
	uint8_t low = 0x80, high = 0xbf;
	size_t n;

	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		n = 2;
	else if (s[0] >= 0xe0 && s[0] <= 0xef)
		n = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		n = 4;
	else
		return 0;
	if (s[0] == 0xe0)
		low = 0xa0; /* no over-long form */
	else if (s[0] == 0xed)
		high = 0x9f; /* no surrogate */
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f; /* nothing over U+10FFFF */
	if (s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

static const char *clean_utf8(const char *s, struct buf *b)
{
	const uint8_t *p = (const uint8_t *)s;

	while (*p) {
		size_t n = utf8_length(p);

		if (n)
			buf_put(b, p, n);
		else
			buf_put_str(b, "\xef\xbf\xbd");
		p += n ? n : 1;
	}
	return buf_str(b);
}

/* Takes the reference to value; NULL stands for an allocation failure. */
static void put(struct json *j, const char *name, json_t *value)
{
	struct buf clean CLEANUP(buf_done) = {0};
	json_t *parent;
	int r;

	CHECK(j->depth > 0);
	parent = j->open[j->depth - 1];
	if (j->failed || !value) {
		json_decref(value);
		j->failed = true;
		return;
	}
	CHECK(json_is_array(parent) == !name);
	if (name)
		r = json_object_set_new(parent, clean_utf8(name, &clean), value);
	else
		r = json_array_append_new(parent, value);
	if (r || clean.failed)
		j->failed = true;
}

static void begin(struct json *j, const char *name, json_t *container)
{
	put(j, name, container);
	CHECK(j->depth < WRITE_DEPTH_MAX);
	j->open[j->depth++] = j->failed ? NULL : container;
}

struct json *json_new(void)
{
	struct json *j = calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	j->root = json_object();
	j->failed = !j->root;
	j->open[j->depth++] = j->root;
	return j;
}

void json_free(struct json *j)
{
	if (!j)
		return;
	json_decref(j->root);
	free(j);
}

void json_put_str(struct json *j, const char *name, const char *value)
{
	struct buf clean CLEANUP(buf_done) = {0};
	const char *text = clean_utf8(value, &clean);

	put(j, name, clean.failed ? NULL : json_string(text));
}

void json_put_int(struct json *j, const char *name, int64_t value)
{
	put(j, name, json_integer(value));
}

void json_put_real(struct json *j, const char *name, double value)
{
	/* JSON has no spelling for infinity and NaN. */
	put(j, name, isfinite(value) ? json_real(value) : json_null());
}

void json_put_bool(struct json *j, const char *name, bool value)
{
	put(j, name, json_boolean(value));
}

void json_begin_object(struct json *j, const char *name)
{
	begin(j, name, json_object());
}

void json_begin_array(struct json *j, const char *name)
{
	begin(j, name, json_array());
}

void json_end(struct json *j)
{
	CHECK(j->depth > 0);
	j->depth--;
}

char *json_text(struct json *j)
{
	char *text = NULL, *longer;
	size_t n;

	if (!j->failed)
		text = json_dumps(j->root, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
	if (!text)
		return NULL;
	n = strlen(text);
	longer = realloc(text, n + 2);
	if (!longer) {
		free(text);
		return NULL;
	}
	memcpy(longer + n, "\n", 2);
	return longer;
}

/* jansson recurses 2,048 levels deep, which a hostile document could use to run over the 256 KiB
 * stack of a thread. */
static bool too_deep(const char *text, size_t n)
{
	bool quoted = false;
	int depth = 0;

	for (size_t i = 0; i < n; i++) {
		char c = text[i];

		if (quoted && c == '\\')
			i++;
		else if (c == '"')
			quoted = !quoted;
		else if (!quoted && (c == '{' || c == '['))
			depth++;
		else if (!quoted && (c == '}' || c == ']'))
			depth--;
		if (depth > PARSE_DEPTH_MAX)
			return true;
	}
	return false;
}

int json_parse(const char *text, size_t n, struct json_object **ret)
{
	struct json_object *o;
	json_error_t error;
	json_t *root;

	if (!n || n > PARSE_BYTES_MAX || too_deep(text, n))
		return -EINVAL;
	root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
	if (!root)
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EINVAL;
	if (!json_is_object(root)) {
		json_decref(root);
		return -EINVAL;
	}
	o = malloc(sizeof(*o));
	if (!o) {
		json_decref(root);
		return -ENOMEM;
	}
	o->root = root;
	*ret = o;
	return 0;
}

void json_object_free(struct json_object *o)
{
	if (!o)
		return;
	json_decref(o->root);
	free(o);
}

const char *json_get_str(const struct json_object *o, const char *name)
{
	return json_string_value(json_object_get(o->root, name));
}

bool json_get_int(const struct json_object *o, const char *name, int64_t *ret)
{
	const json_t *value = json_object_get(o->root, name);

	if (!json_is_integer(value))
		return false;
	*ret = json_integer_value(value);
	return true;
}

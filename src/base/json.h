/*
 * JSON in the two forms that Meridian needs: writing any document front to back, and reading a
 * flat object of strings and integers. The only user of jansson.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/attribute.h"

/* Writer. Names are NULL inside arrays. Byte strings that are not UTF-8 have the offending bytes
 * replaced by U+FFFD. An allocation failure makes json_text return NULL. Not thread-safe. */
struct json;

struct json *json_new(void); /* an empty object, open */
void json_free(struct json *j);
void json_put_str(struct json *j, const char *name, const char *value);
void json_put_int(struct json *j, const char *name, int64_t value);
void json_put_real(struct json *j, const char *name, double value);
void json_put_bool(struct json *j, const char *name, bool value);
void json_begin_object(struct json *j, const char *name);
void json_begin_array(struct json *j, const char *name);
void json_end(struct json *j); /* closes the innermost object or array */
/* Indented text with a newline at the end; heap, free() it. */
char *json_text(struct json *j);

/* Reader: parses text (at most 1 MiB) as one object. Returns 0, -EINVAL for anything else. */
struct json_object;

int json_parse(const char *text, size_t n, struct json_object **ret) MUST_CHECK;
void json_object_free(struct json_object *o);
/* Borrowed until json_object_free; NULL unless the member is there and a string. */
const char *json_get_str(const struct json_object *o, const char *name);
/* False, *ret untouched, unless the member is there and an integer. */
bool json_get_int(const struct json_object *o, const char *name, int64_t *ret) MUST_CHECK;

#endif

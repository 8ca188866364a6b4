/* Object metadata from a bucket: the first byte is flags and size, then lines "name\nvalue\n". What
 * is accepted must survive being written and read again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/object.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void again(const struct object_entry *e, bool directory)
{
	CLEANUP(store_meta_done) struct store_meta m = {0};
	CLEANUP(object_entry_done) struct object_entry back = {0};

	if (object_meta_from_entry(&e->entry, e->xattrs_omitted, &m) < 0)
		return; /* too large by now */
	CHECK(object_meta_to_entry(&m, e->entry.size, directory, &back) == 0);
	CHECK(stamp_cmp(back.entry.content_stamp, e->entry.content_stamp) == 0);
	CHECK(link_id_equal(back.entry.link, e->entry.link));
	CHECK(back.entry.mode == e->entry.mode && back.entry.kind == e->entry.kind);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(store_meta_done) struct store_meta m = {0};
	CLEANUP(object_entry_done) struct object_entry e = {0};

	if (!size)
		return 0;
	AUTO_FREE char *text = malloc(size);
	CHECK(text);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	char *at = text, *name, *value;
	while ((name = strsep(&at, "\n")) && (value = strsep(&at, "\n"))) {
		if (store_meta_set(&m, name, value) < 0)
			continue;
	}
	bool directory = data[0] & 1;
	if (object_meta_to_entry(&m, data[0] >> 1, directory, &e) == 0)
		again(&e, directory);
	return 0;
}

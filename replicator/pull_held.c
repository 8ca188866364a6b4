/*
 * Held records: those that were stamped too far in the future when they came, merged when their
 * time has come.
 *
 * They are copied out of the database first, because a batch writes files and takes locks that must
 * not be waited for inside a read transaction; a round takes at most 100 records or 8 MiB. A record
 * that cannot be decoded any more is dropped from the list: nothing can be done with it. No lock:
 * the puller's thread.
 */
#include "replicator/pull.h"

#include <errno.h>

#include "cache/held.h"
#include "src/base/clock.h"

enum { HELD_MAX = 100, HELD_BYTES = 8 << 20 };

struct held {
	struct merge_batch *batch;
	uint64_t ids[HELD_MAX];
	unsigned count;
};

static int collect_held(void *ctx, uint64_t id, const void *bytes, size_t len)
{
	struct held *h = ctx;
	struct record record = {0};

	if (h->count == HELD_MAX)
		return 1;
	int r = record_decode(bytes, len, &record, NULL);
	if (r == 0) {
		r = merge_batch_add_record(h->batch, &record);
		record_done(&record);
	}
	if (r == -EBADMSG)
		r = 0; /* ours to keep, and damaged: nothing can be done with it */
	if (r == 0)
		h->ids[h->count++] = id;
	return r;
}

static int remove_held(void *ctx, struct conn *conn)
{
	struct held *h = ctx;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < h->count; i++)
		r = held_remove(conn, h->ids[i]);
	return r;
}

struct held_copy {
	struct buf bytes; /* be64 id, varint length and bytes, of each */
	unsigned count;
};

static int copy_held(void *ctx, uint64_t id, const void *bytes, size_t len)
{
	struct held_copy *h = ctx;

	buf_put_be64(&h->bytes, id);
	buf_put_bytes(&h->bytes, bytes, len);
	h->count++;
	return h->bytes.failed || h->bytes.len > HELD_BYTES;
}

/* Records whose time has come. They are copied out first: the batch must not be filled inside a
 * read transaction. */
int pull_held(struct cache *c, const struct merger_options *o, bool *did)
{
	struct held_copy copy = {.bytes.max = SEGMENT_BYTES_MAX * 2};
	struct held held = {0};
	struct conn *conn;

	int r = cache_read_begin(c, &conn);
	if (r < 0)
		return r;
	r = held_due(conn, hlc_wall_ms(cache_clock(c)), HELD_MAX, copy_held, &copy);
	cache_read_end(conn);
	if (r > 0)
		r = 0;
	if (r == 0 && copy.count)
		r = merge_batch_new(c, o, &held.batch);
	struct reader reader = reader_of(copy.bytes.data, copy.bytes.len);
	while (r == 0 && held.batch && reader_left(&reader) && !reader.failed) {
		uint64_t id = reader_be64(&reader);
		size_t len;
		const uint8_t *bytes = reader_bytes(&reader, SEGMENT_BYTES_MAX, &len);

		if (bytes)
			r = collect_held(&held, id, bytes, len);
	}
	if (r == 0 && held.count) {
		r = merge_batch_commit(held.batch, remove_held, &held);
		*did = r == 0;
	}
	merge_batch_free(held.batch);
	buf_done(&copy.bytes);
	return r == -EBUSY || r > 0 ? 0 : r;
}

/* Objects in parts, delivered as any other, and copies inside the store. */
#include "tests/unit/upload_fixture.h"

#include "replicator/object.h"

static int open_body(void *ctx, struct store_source *ret)
{
	static struct store_memory memory;
	struct world *w = ctx;

	memory = (struct store_memory){w->body, SIZE};
	*ret = store_source_memory(&memory);
	return 0;
}

static int open_text(void *ctx, struct store_source *ret)
{
	*ret = *(struct store_source *)ctx;
	return 0;
}

static enum store_result deliver(
	struct world *w, uint64_t time, uint64_t node, bool fresh, bool *superseded)
{
	CLEANUP(entry_done)
	struct entry e = {.kind = KIND_FILE,
		.size = SIZE,
		.content_stamp = {time, node},
		.mode = 0640,
		.attr_stamp = {time, node}};
	struct store_call call = {0};
	struct store_error error = {0};
	struct object_outcome outcome;
	struct object_request q = {.store = w->store,
		.uploader = &w->uploader,
		.call = &call,
		.key = slice_of("big"),
		.entry = &e,
		.fresh = fresh,
		.open = open_body,
		.ctx = w};

	sha256(w->body, SIZE, e.hash);
	vector_raise(&e.vector, e.content_stamp);
	enum store_result r = object_deliver(&q, &outcome, &error);
	if (superseded)
		*superseded = outcome.superseded;
	return r;
}

static void expect_entry(struct world *w, uint64_t time)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	CLEANUP(object_entry_done) struct object_entry e = {0};
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};

	assert_int_equal(
		store_get_buf(w->mem, "big", 1 << 20, &b, NULL, &meta, NULL, &error), STORE_OK);
	assert_int_equal(object_meta_to_entry(&meta, b.len, false, &e), 0);
	assert_int_equal(e.entry.content_stamp.time, time);
	assert_memory_equal(b.data, w->body, SIZE);
}

/* The object is what one put would have made, with conditions and without. */
static void delivered_as_any_object(void **state)
{
	static const unsigned caps[] = {
		STORE_MEM_ALL, STORE_MEM_ALL & ~(unsigned)STORE_CAP_UPLOAD_IF};
	struct world *w = *state;
	bool superseded;

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		open_bucket(w, caps[i]);
		assert_int_equal(deliver(w, 50 << 16, 1, true, &superseded), STORE_OK);
		assert_false(superseded);
		expect_entry(w, 50 << 16);
		w->body[7]++;
		assert_int_equal(deliver(w, 60 << 16, 1, true, &superseded), STORE_OK);
		expect_entry(w, 60 << 16);
		assert_int_equal(w->parts_sent, 2 * PARTS);
		w->body[7]++;
		assert_int_equal(deliver(w, 55 << 16, 2, true, &superseded), STORE_OK);
		assert_true(superseded);
		w->body[7]--;
		expect_entry(w, 60 << 16);
	}
}

static void a_lost_end_is_looked_for(void **state)
{
	struct world *w = *state;
	struct store_call call = {0};

	w->fail_op = "end";
	w->fail_late = true;
	w->fail_with = STORE_UNKNOWN;
	assert_int_equal(deliver(w, 50 << 16, 1, true, NULL), STORE_UNKNOWN);
	w->fail_op = NULL;
	restart(w);
	assert_int_equal(deliver(w, 50 << 16, 1, true, NULL), STORE_OK);
	upload_settled(&w->uploader, slice_of("big"), &call);
	assert_int_equal(records(w), 0);
	assert_int_equal(w->parts_sent, 0);
	expect_entry(w, 50 << 16);
}

/* A store whose one copy takes no more than one put. */
static enum store_result refuse_copies(
	void *ctx, const char *op, const char *key UNUSED, bool done UNUSED)
{
	struct world *w = ctx;

	return w->mem && strcmp(op, "copy") == 0 ? STORE_UNSUPPORTED : STORE_OK;
}

static int count_key(void *ctx, const char *key UNUSED, const struct store_object *object)
{
	assert_int_equal(object->size, SIZE);
	++*(int *)ctx;
	return 0;
}

/* New attributes, and the copy to the trash, of what is too large for one copy. */
static void copied_in_parts(void **state)
{
	static const unsigned caps[] = {
		STORE_MEM_ALL, STORE_MEM_ALL & ~(unsigned)STORE_CAP_UPLOAD_IF};
	struct world *w = *state;
	struct store_error error = {0};

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		CLEANUP(entry_done) struct entry gone = {.content_stamp = {70 << 16, 1}};
		struct store_call call = {0};
		struct object_outcome outcome;
		int kept = 0;

		open_bucket(w, caps[i]);
		w->store = store_fault_new(w->store, refuse_copies, w);
		start(w);
		assert_int_equal(deliver(w, 50 << 16, 1, false, NULL), STORE_OK);
		assert_int_equal(deliver(w, 60 << 16, 1, false, NULL), STORE_OK);
		assert_int_equal(w->parts_sent, PARTS);
		expect_entry(w, 60 << 16);
		struct object_request q = {.store = w->store,
			.uploader = &w->uploader,
			.call = &call,
			.key = slice_of("big"),
			.entry = &gone};
		assert_int_equal(object_deliver(&q, &outcome, &error), STORE_OK);
		assert_int_equal(store_list(w->mem, ".meridian/trash/", NULL, 0, count_key, &kept,
					 NULL, &error),
			STORE_OK);
		assert_int_equal(kept, 1);
		assert_int_equal(store_mem_count(w->mem), 1);
		assert_int_equal(store_mem_uploads(w->mem), 0);
	}
}

static void a_copy_of_another_version_is_not_made(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct world *w = *state;
	struct store_call call = {0};
	struct store_error error = {0};

	assert_int_equal(put(w, "1-1"), STORE_OK);
	assert_true(upload_copy_wanted(w->store, SIZE));
	assert_false(upload_copy_wanted(w->store, 500));
	assert_int_equal(
		upload_copy(&w->uploader, "big", SIZE, "other", "big", &meta, NULL, NULL, &call, &error),
		STORE_PRECONDITION);
	expect_there(w, "1-1");
	atomic_fetch_and(&w->store->capabilities,
		~(unsigned)(STORE_CAP_COPY_IF_MATCH | STORE_CAP_UPLOAD_IF));
	assert_int_equal(
		upload_copy(&w->uploader, "big", SIZE, "other", "big", &meta, NULL, NULL, &call, &error),
		STORE_PRECONDITION);
	expect_there(w, "1-1");
}

static enum store_result replace_source(
	void *ctx, const char *op, const char *key UNUSED, bool done)
{
	struct world *w = ctx;
	struct store_error error = {0};

	if (strcmp(op, "copy") != 0)
		return STORE_OK;
	if (done)
		return w->fail_with;
	return store_put_buf(w->mem, "from", "a new file", 10, NULL, NULL, NULL, NULL, &error);
}

static enum store_result deliver_text(struct world *w, const char *key, const char *text, bool moved)
{
	CLEANUP(entry_done)
	struct entry e = {.kind = KIND_FILE,
		.size = strlen(text),
		.content_stamp = {50 << 16, 1},
		.attr_stamp = {50 << 16, 1}};
	struct store_memory memory = {text, strlen(text)};
	struct store_source source = store_source_memory(&memory);
	struct store_call call = {0};
	struct store_error error = {0};
	struct object_outcome outcome;
	struct object_request q = {.store = w->store,
		.call = &call,
		.key = slice_of(key),
		.entry = &e,
		.open = open_text,
		.ctx = &source};

	if (moved)
		q.sources[0] = (struct object_source){.store = w->store, .key = "from"};
	sha256(text, strlen(text), e.hash);
	vector_raise(&e.vector, e.content_stamp);
	return object_deliver(&q, &outcome, &error);
}

/* The former name of a file has another file by the time of the copy, and the store knows no condition.
 * Also when the daemon ends before it has looked. */
static void a_copy_of_what_came_meanwhile_is_replaced(void **state)
{
	struct world *w = *state;

	for (unsigned killed = 0; killed < 2; killed++) {
		CLEANUP(buf_done) struct buf b = {0};
		struct store_error error = {0};

		open_bucket(w, STORE_MEM_ALL &
				       ~(unsigned)(STORE_CAP_COPY_IF_MATCH | STORE_CAP_UPLOAD_IF));
		assert_int_equal(deliver_text(w, "from", "the renamed file", false), STORE_OK);
		w->store = store_fault_new(w->store, replace_source, w);
		w->fail_with = killed ? STORE_UNKNOWN : STORE_OK;
		assert_int_equal(deliver_text(w, "to", "the renamed file", true), w->fail_with);
		w->fail_with = STORE_OK;
		assert_int_equal(deliver_text(w, "to", "the renamed file", true), STORE_OK);
		assert_int_equal(
			store_get_buf(w->mem, "to", 1 << 20, &b, NULL, NULL, NULL, &error), STORE_OK);
		assert_int_equal(b.len, 16);
		assert_memory_equal(b.data, "the renamed file", 16);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(delivered_as_any_object),
		TEST(a_lost_end_is_looked_for),
		TEST(copied_in_parts),
		TEST(a_copy_of_another_version_is_not_made),
		TEST(a_copy_of_what_came_meanwhile_is_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

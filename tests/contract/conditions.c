/* Conditions, alone and raced for by many threads. */
#include "tests/contract/contract.h"

#include <stdlib.h>

#include "src/base/thread.h"

enum { THREADS = 8 };

static const struct store_condition absent = {.if_absent = true};

static void probed_capabilities(void **state)
{
	static const struct {
		char letter;
		unsigned capability;
	} map[] = {{'a', STORE_CAP_PUT_IF_ABSENT}, {'m', STORE_CAP_PUT_IF_MATCH},
		{'d', STORE_CAP_DELETE_IF_MATCH}, {'c', STORE_CAP_COPY},
		{'s', STORE_CAP_COPY_IF_MATCH}, {'u', STORE_CAP_UPLOAD},
		{'p', STORE_CAP_UPLOAD_COPY}, {'i', STORE_CAP_UPLOAD_IF}};
	const char *want = getenv("CONTRACT_EXPECT");

	if (!want)
		want = "amdcsupi";
	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (!(capabilities & map[i].capability) != !strchr(want, map[i].letter)) {
			print_error("capability %c: found %d\n", map[i].letter,
				(capabilities & map[i].capability) != 0);
			fail();
		}
}

static int count_key(void *ctx, const char *key, const struct store_object *object)
{
	++*(int *)ctx;
	return 0;
}

static void probe_leaves_nothing(void **state)
{
	int n = 0;

	expect(STORE_OK, store_list(store, ".meridian/probe/", NULL, 0, count_key, &n, NULL, E));
	assert_int_equal(n, 0);
}

/* What the probe did not find is refused before anything is sent. */
static void missing_capabilities(void **state)
{
	const struct store_condition match = {.if_match = "x"};
	unsigned had = atomic_exchange(&store->capabilities, 0);

	put_text(key_of("missing"), "x", NULL);
	expect(STORE_UNSUPPORTED,
		store_put_buf(store, key_of("missing"), "y", 1, NULL, &absent, NULL, NULL, E));
	expect(STORE_UNSUPPORTED,
		store_put_buf(store, key_of("missing"), "y", 1, NULL, &match, NULL, NULL, E));
	expect(STORE_UNSUPPORTED, store_remove(store, key_of("missing"), "x", NULL, E));
	expect(STORE_UNSUPPORTED, store_copy(store, key_of("missing"), key_of("missing2"), NULL,
					  NULL, NULL, NULL, E));
	atomic_store(&store->capabilities, had);
	assert_text(key_of("missing"), "x");
}

static void put_if_absent(void **state)
{
	need(STORE_CAP_PUT_IF_ABSENT);
	const char *key = key_of("cond/absent");

	expect(STORE_OK, store_put_buf(store, key, "1", 1, NULL, &absent, NULL, NULL, E));
	expect(STORE_EXISTS, store_put_buf(store, key, "2", 1, NULL, &absent, NULL, NULL, E));
	assert_text(key, "1");
	expect(STORE_OK, store_remove(store, key, NULL, NULL, E));
	expect(STORE_OK, store_put_buf(store, key, "3", 1, NULL, &absent, NULL, NULL, E));
	assert_text(key, "3");
}

static void head_etag(const char *key, char etag[STORE_ETAG_SIZE])
{
	struct store_object object = {0};

	expect(STORE_OK, store_head(store, key, &object, NULL, NULL, E));
	memcpy(etag, object.etag, STORE_ETAG_SIZE);
}

static void put_if_match(void **state)
{
	need(STORE_CAP_PUT_IF_MATCH);
	const char *key = key_of("cond/match");
	char first[STORE_ETAG_SIZE], second[STORE_ETAG_SIZE] = "";
	struct store_condition match = {.if_match = first};

	put_text(key, "one", NULL);
	head_etag(key, first);
	expect(STORE_OK, store_put_buf(store, key, "two!", 4, NULL, &match, second, NULL, E));
	assert_text(key, "two!");
	expect(STORE_PRECONDITION,
		store_put_buf(store, key, "three", 5, NULL, &match, NULL, NULL, E));
	assert_text(key, "two!");
	head_etag(key, second);
	match.if_match = second;
	expect(STORE_OK, store_put_buf(store, key, "four four", 9, NULL, &match, NULL, NULL, E));
	expect(STORE_OK, store_remove(store, key, NULL, NULL, E));
	expect(STORE_PRECONDITION,
		store_put_buf(store, key, "five", 4, NULL, &match, NULL, NULL, E));
	expect(STORE_ABSENT, store_head(store, key, NULL, NULL, NULL, E));
}

static void get_if_match(void **state)
{
	const char *key = key_of("cond/get");
	char first[STORE_ETAG_SIZE];
	struct store_sink sink = {0};

	put_text(key, "one", NULL);
	head_etag(key, first);
	put_text(key, "another", NULL);
	expect(STORE_PRECONDITION, store_get(store, key, 0, 0, first, &sink, NULL, NULL, NULL, E));
	assert_text(key, "another");
}

static void remove_if_match(void **state)
{
	need(STORE_CAP_DELETE_IF_MATCH);
	const char *key = key_of("cond/remove");
	char first[STORE_ETAG_SIZE], second[STORE_ETAG_SIZE];

	put_text(key, "one", NULL);
	head_etag(key, first);
	put_text(key, "another", NULL);
	head_etag(key, second);
	expect(STORE_PRECONDITION, store_remove(store, key, first, NULL, E));
	assert_text(key, "another");
	expect(STORE_OK, store_remove(store, key, second, NULL, E));
	expect(STORE_ABSENT, store_head(store, key, NULL, NULL, NULL, E));
	enum store_result r = store_remove(store, key, second, NULL, NULL);
	assert_true(r == STORE_OK || r == STORE_PRECONDITION);
}

static void copy_if_match(void **state)
{
	need(STORE_CAP_COPY_IF_MATCH);
	const char *from = key_of("cond/from"), *to = key_of("cond/to");
	char first[STORE_ETAG_SIZE], second[STORE_ETAG_SIZE];

	put_text(from, "one", NULL);
	head_etag(from, first);
	put_text(from, "another", NULL);
	head_etag(from, second);
	expect(STORE_PRECONDITION, store_copy(store, from, to, NULL, first, NULL, NULL, E));
	expect(STORE_ABSENT, store_head(store, to, NULL, NULL, NULL, E));
	expect(STORE_OK, store_copy(store, from, to, NULL, second, NULL, NULL, E));
	assert_text(to, "another");
}

/* Races. Threads must not assert: they leave results for the main one. */

struct racer {
	const char *key;
	int number;
	int rounds;
	int won;
	enum store_result bad; /* STORE_OK: none */
};

static void race(void *(*fn)(void *), struct racer r[THREADS], const char *key, int rounds)
{
	pthread_t t[THREADS];

	for (int i = 0; i < THREADS; i++) {
		r[i] = (struct racer){.key = key, .number = i, .rounds = rounds};
		assert_int_equal(thread_start(&t[i], "racer", fn, &r[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < THREADS; i++)
		expect(STORE_OK, r[i].bad);
}

static void *race_absent(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < r->rounds; i++) {
		char key[STORE_KEY_MAX], body[32];
		snprintf(key, sizeof(key), "%s/%d", r->key, i);
		int n = snprintf(body, sizeof(body), "thread %d", r->number);
		enum store_result s =
			store_put_buf(store, key, body, (size_t)n, NULL, &absent, NULL, NULL, NULL);
		if (s == STORE_OK)
			r->won++;
		else if (s != STORE_EXISTS)
			r->bad = s;
	}
	return NULL;
}

static void race_if_absent(void **state)
{
	struct racer r[THREADS];
	int won = 0;

	need(STORE_CAP_PUT_IF_ABSENT);
	if (getenv("CONTRACT_NO_RACES"))
		skip();
	race(race_absent, r, key_of("race"), 10);
	for (int i = 0; i < THREADS; i++)
		won += r[i].won;
	assert_int_equal(won, 10);
}

static void *race_match(void *arg)
{
	struct racer *r = arg;

	while (r->won < r->rounds && r->bad == STORE_OK) {
		CLEANUP(buf_done) struct buf b = {0};
		struct store_object object = {0};
		char body[32];
		enum store_result s =
			store_get_buf(store, r->key, 100, &b, &object, NULL, NULL, NULL);
		if (s != STORE_OK) {
			r->bad = s;
			break;
		}
		int n = snprintf(body, sizeof(body), "%d", atoi(buf_str(&b)) + 1);
		struct store_condition match = {.if_match = object.etag};
		s = store_put_buf(store, r->key, body, (size_t)n, NULL, &match, NULL, NULL, NULL);
		if (s == STORE_OK)
			r->won++;
		else if (s != STORE_PRECONDITION)
			r->bad = s;
	}
	return NULL;
}

static void race_if_match(void **state)
{
	struct racer r[THREADS];
	const char *key = key_of("counter");

	need(STORE_CAP_PUT_IF_MATCH);
	if (getenv("CONTRACT_NO_RACES"))
		skip();
	put_text(key, "0", NULL);
	race(race_match, r, key, 10);
	assert_text(key, "80");
}

/* Puts, removes and lookups of neighbours: directories come and go under each other's feet. */
static void *race_directories(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < r->rounds && r->bad == STORE_OK; i++) {
		char key[STORE_KEY_MAX];
		snprintf(key, sizeof(key), "%s/x/y/%d", r->key, r->number);
		r->bad = store_put_buf(store, key, "body", 4, NULL, NULL, NULL, NULL, NULL);
		if (r->bad == STORE_OK)
			r->bad = store_head(store, key, NULL, NULL, NULL, NULL);
		if (r->bad == STORE_OK)
			r->bad = store_remove(store, key, NULL, NULL, NULL);
	}
	return NULL;
}

static void race_neighbours(void **state)
{
	struct racer r[THREADS];

	race(race_directories, r, key_of("neighbours"), 20);
}

/* A reader sees whole versions only: body, size and metadata of one put. */
static atomic_int writing;

static void *race_versions(void *arg)
{
	struct racer *r = arg;
	bool writer = r->number < 4;

	/* Readers go on while there is a writer. */
	for (int i = 0; r->bad == STORE_OK && (writer ? i < r->rounds : atomic_load(&writing) > 0);
		i++) {
		CLEANUP(store_meta_done) struct store_meta meta = {0};
		char body[256], text[16];
		int n = r->number * 25 + i % 10 + 1;
		memset(body, '0' + n % 10, sizeof(body));
		snprintf(text, sizeof(text), "%d", n);
		if (writer) {
			if (store_meta_set(&meta, "n", text) < 0)
				r->bad = STORE_LOCAL;
			else
				r->bad = store_put_buf(store, r->key, body, (size_t)n, &meta, NULL,
					NULL, NULL, NULL);
			continue;
		}
		CLEANUP(buf_done) struct buf b = {0};
		struct store_object object = {0};
		r->bad = store_get_buf(store, r->key, 1000, &b, &object, &meta, NULL, NULL);
		if (r->bad != STORE_OK)
			break;
		const char *v = store_meta_get(&meta, "n");
		n = v ? atoi(v) : -1;
		if (n != (int)b.len || object.size != b.len || (n && b.data[n - 1] != '0' + n % 10))
			r->bad = STORE_CORRUPT;
	}
	if (writer)
		atomic_fetch_sub(&writing, 1);
	return NULL;
}

static void race_whole_versions(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct racer r[THREADS];
	const char *key = key_of("versions");

	assert_int_equal(store_meta_set(&meta, "n", "1"), 0);
	expect(STORE_OK, store_put_buf(store, key, "1", 1, &meta, NULL, NULL, NULL, E));
	atomic_store(&writing, 4);
	race(race_versions, r, key, 30);
}

const struct CMUnitTest condition_cases[] = {
	cmocka_unit_test(probed_capabilities),
	cmocka_unit_test(probe_leaves_nothing),
	cmocka_unit_test(missing_capabilities),
	cmocka_unit_test(put_if_absent),
	cmocka_unit_test(put_if_match),
	cmocka_unit_test(get_if_match),
	cmocka_unit_test(remove_if_match),
	cmocka_unit_test(copy_if_match),
	cmocka_unit_test(race_if_absent),
	cmocka_unit_test(race_if_match),
	cmocka_unit_test(race_neighbours),
	cmocka_unit_test(race_whole_versions),
};
const size_t condition_case_count = ARRAY_SIZE(condition_cases);

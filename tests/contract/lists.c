/* Listings: order, prefix, start, limit, paging. */
#include "tests/contract/contract.h"

#include <stdlib.h>

#include "src/base/thread.h"

enum { MANY = 1100, MAKERS = 11 };

struct seen {
	struct buf keys; /* each followed by a newline, without the run's prefix */
	uint64_t count;
	uint64_t stop_after;
	bool disorder;
	char last[STORE_KEY_MAX + 1];
};

static int see(void *ctx, const char *key, const struct store_object *object)
{
	struct seen *s = ctx;
	size_t skip_len = strlen(key_of("%s", "list"));

	s->disorder |= strcmp(key, s->last) <= 0;
	strncpy(s->last, key, sizeof(s->last) - 1);
	buf_put_str(&s->keys, key + (strlen(key) > skip_len ? skip_len : 0));
	buf_put_str(&s->keys, "\n");
	return ++s->count == s->stop_after;
}

static void assert_list(const char *prefix, const char *after, uint64_t limit, const char *want)
{
	struct seen s = {0};
	const char *start = after ? key_of("list%s", after) : NULL;

	expect(STORE_OK,
		store_list(store, key_of("list%s", prefix), start, limit, see, &s, NULL, E));
	assert_false(s.disorder);
	assert_string_equal(buf_str(&s.keys), want);
	buf_done(&s.keys);
}

static const char *const names[] = {"/a", "/a!b", "/a.b", "/a/", "/a/b", "/a/b/c", "/a/b0", "/a0",
	"/ab", "/b/c/d/e", "/b/c/d0", "/b/c0", "/dir/", "/e/%01", "/e/x y", "/z\xc3\xbc", "x"};

static void make_names(void)
{
	/* Not in order of their keys. */
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *name = names[(i * 7) % ARRAY_SIZE(names)];
		const char *body = name[strlen(name) - 1] == '/' ? "" : name;
		put_text(key_of("list%s", name), body, NULL);
	}
}

static void order_and_prefix(void **state)
{
	CLEANUP(buf_done) struct buf all = {0};

	make_names();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		buf_printf(&all, "%s\n", names[i]);
	assert_list("", NULL, 0, buf_str(&all));
	assert_list("/a", NULL, 0, "/a\n/a!b\n/a.b\n/a/\n/a/b\n/a/b/c\n/a/b0\n/a0\n/ab\n");
	assert_list("/a/", NULL, 0, "/a/\n/a/b\n/a/b/c\n/a/b0\n");
	assert_list("/a/b", NULL, 0, "/a/b\n/a/b/c\n/a/b0\n");
	assert_list("/a/b/", NULL, 0, "/a/b/c\n");
	assert_list("/b/c/d", NULL, 0, "/b/c/d/e\n/b/c/d0\n");
	assert_list("/none/", NULL, 0, "");
	assert_list("/x/none/at/all", NULL, 0, "");
}

static void start_and_limit(void **state)
{
	make_names();
	for (size_t from = 0; from < ARRAY_SIZE(names); from++) {
		CLEANUP(buf_done) struct buf want = {0};
		for (size_t i = from + 1; i < ARRAY_SIZE(names) && i <= from + 4; i++)
			buf_printf(&want, "%s\n", names[i]);
		assert_list("", names[from], 4, buf_str(&want));
	}
	/* Starts that are no keys themselves. */
	assert_list("", "/a/b/", 2, "/a/b/c\n/a/b0\n");
	assert_list("", "/b/c/d/", 1, "/b/c/d/e\n");
	assert_list("", "/b/c/d/zzz", 1, "/b/c/d0\n");
	assert_list("/a", "/a/zzz", 0, "/a0\n/ab\n");
	assert_list("/b", "/a/b", 1, "/b/c/d/e\n");
	assert_list("/a", "/b", 0, "");
	assert_list("", "/a", 1, "/a!b\n");
	assert_list("/z", NULL, 1, "/z\xc3\xbc\n");
}

static void callback_ends(void **state)
{
	struct seen s = {.stop_after = 3};

	make_names();
	expect(STORE_OK, store_list(store, key_of("list"), NULL, 0, see, &s, NULL, E));
	assert_string_equal(buf_str(&s.keys), "/a\n/a!b\n/a.b\n");
	buf_done(&s.keys);
}

struct sizes {
	int n;
	bool wrong;
};

static int check_size(void *ctx, const char *key, const struct store_object *object)
{
	struct sizes *s = ctx;
	struct store_object head = {0};

	s->wrong |= object->size != 3 || !object->etag[0] || object->mtime_ms < 1600000000000;
	s->wrong |= store_head(store, key, &head, NULL, NULL, NULL) != STORE_OK ||
		    strcmp(head.etag, object->etag);
	s->n++;
	return 0;
}

static void listed_identity(void **state)
{
	struct sizes s = {0};

	put_text(key_of("ids/a"), "abc", NULL);
	put_text(key_of("ids/a/b"), "def", NULL);
	expect(STORE_OK, store_list(store, key_of("ids/"), NULL, 0, check_size, &s, NULL, E));
	assert_int_equal(s.n, 2);
	assert_false(s.wrong);
}

struct numbers {
	int next;
	bool wrong;
};

static int number(void *ctx, const char *key, const struct store_object *object)
{
	struct numbers *n = ctx;

	n->wrong |= atoi(strrchr(key, '/') + 2) != n->next;
	n->next++;
	return 0;
}

struct maker {
	int first;
	bool removes;
	int failed;
};

/* A share of the keys; the latency of a server would make a loop slow. */
static void *make_many(void *arg)
{
	struct maker *m = arg;

	for (int i = m->first; i < MANY; i += MAKERS) {
		const char *key = key_of("many/k%05d", i);
		enum store_result r =
			m->removes ? store_remove(store, key, NULL, NULL, NULL)
				   : store_put_buf(store, key, "", 0, NULL, NULL, NULL, NULL, NULL);
		m->failed += r != STORE_OK;
	}
	return NULL;
}

static void many(bool removes)
{
	struct maker m[MAKERS];
	pthread_t t[MAKERS];

	for (int i = 0; i < MAKERS; i++) {
		m[i] = (struct maker){.first = i, .removes = removes};
		assert_int_equal(thread_start(&t[i], "maker", make_many, &m[i]), 0);
	}
	for (int i = 0; i < MAKERS; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < MAKERS; i++)
		assert_int_equal(m[i].failed, 0);
}

static void more_than_a_page(void **state)
{
	struct numbers n = {0};

	many(false);
	expect(STORE_OK, store_list(store, key_of("many/"), NULL, 0, number, &n, NULL, E));
	assert_int_equal(n.next, MANY);
	assert_false(n.wrong);
	n.next = 51;
	expect(STORE_OK, store_list(store, key_of("many/"), key_of("many/k00050"), 1005, number, &n,
				 NULL, E));
	assert_int_equal(n.next, 1056);
	assert_false(n.wrong);
	many(true);
}

const struct CMUnitTest list_cases[] = {
	cmocka_unit_test(order_and_prefix),
	cmocka_unit_test(start_and_limit),
	cmocka_unit_test(callback_ends),
	cmocka_unit_test(listed_identity),
	cmocka_unit_test(more_than_a_page),
};
const size_t list_case_count = ARRAY_SIZE(list_cases);

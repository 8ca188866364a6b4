/*
 * The contract suite: one set of cases for every object store and every layer over one. What runs
 * is chosen by the environment (run-target sets it):
 *
 *   CONTRACT_URL           mem: | mem+layers: | file:///dir | s3://bucket/prefix
 *   CONTRACT_ENDPOINT, CONTRACT_CA, CONTRACT_CREDENTIALS, CONTRACT_PATH_STYLE=1
 *   CONTRACT_EXPECT        the capabilities that the probe must find, no more and no fewer, as
 *                          letters: a put if absent, m put if match, d delete if match, c copy,
 *                          s copy if match
 *   CONTRACT_AUTH=1        the server checks signatures, so that wrong keys must be denied
 *   CONTRACT_DIR=1         the store is a directory: keys that no mount could have are refused
 */
#include "tests/contract/contract.h"

#include <stdlib.h>

#include "src/base/random.h"
#include "tests/sim/store_mem.h"

struct store *store;
unsigned capabilities;
static uint64_t run_id;

const char *key_of(const char *fmt, ...)
{
	static _Thread_local char ring[16][STORE_KEY_MAX + 64];
	static _Thread_local unsigned at;
	char *key = ring[at++ % 16];
	va_list ap;

	int n = snprintf(key, sizeof(ring[0]), "contract-%016llx/", (unsigned long long)run_id);
	va_start(ap, fmt);
	vsnprintf(key + n, sizeof(ring[0]) - (size_t)n, fmt, ap);
	va_end(ap);
	return key;
}

void expect_at(enum store_result r, enum store_result want, const struct store_error *e,
	const char *file, int line)
{
	if (r == want)
		return;
	print_error("%s:%d: got \"%s\", expected \"%s\"; http %d, code %s, errno %d: %s\n", file,
		line, store_result_name(r), store_result_name(want), e->http_status, e->code,
		e->local_errno, e->text);
	_assert_true(0, "store result", file, line);
}

void put_text(const char *key, const char *text, char *etag)
{
	expect(STORE_OK, store_put_buf(store, key, text, strlen(text), NULL, NULL, etag, NULL, E));
}

void assert_text(const char *key, const char *text)
{
	CLEANUP(buf_done) struct buf b = {0};

	expect(STORE_OK, store_get_buf(store, key, 1 << 20, &b, NULL, NULL, NULL, E));
	assert_int_equal(b.len, strlen(text));
	assert_memory_equal(b.len ? (const char *)b.data : "", text, b.len);
}

static enum store_result no_fault(void *ctx, const char *op, const char *key, bool did_happen)
{
	return STORE_OK;
}

struct store *contract_open_with(const char *credentials_file)
{
	const char *url = getenv("CONTRACT_URL");
	const struct store_config config = {
		.name = "us-east-1",
		.url = url,
		.endpoint = getenv("CONTRACT_ENDPOINT"),
		.credentials_file = credentials_file,
		.ca_bundle = getenv("CONTRACT_CA"),
		.path_style = getenv("CONTRACT_PATH_STYLE") != NULL,
	};
	struct err err = {0};
	struct store *s;

	if (!url || !strcmp(url, "mem:"))
		return store_mem_new(STORE_MEM_ALL);
	if (!strcmp(url, "mem+layers:")) {
		s = store_fault_new(store_mem_new(STORE_MEM_ALL), no_fault, NULL);
		return store_retry_new(store_limit_new(store_stats_new(s), 16), 4, 60000);
	}
	if (store_open(&config, &s, &err) < 0) {
		print_error("%s\n", err.text);
		return NULL;
	}
	return s;
}

struct store *contract_open(void)
{
	return contract_open_with(getenv("CONTRACT_CREDENTIALS"));
}

static int setup(void **state)
{
	struct store_error error = {0};

	run_id = random_u64();
	store = contract_open();
	if (!store)
		return -1;
	enum store_result r = store_probe(store, NULL, &error);
	if (r != STORE_OK) {
		print_error("probe: %s: %s %s\n", store_result_name(r), error.code, error.text);
		return -1;
	}
	capabilities = atomic_load(&store->capabilities);
	return 0;
}

static int collect(void *ctx, const char *key, const struct store_object *object)
{
	struct buf *b = ctx;

	buf_put(b, key, strlen(key) + 1);
	return 0;
}

/* Removes everything that this run made, and finds the store empty then. */
static int teardown(void **state)
{
	CLEANUP(buf_done) struct buf b = {0};
	int left = 0;

	enum store_result r = store_list(store, key_of("%s", ""), NULL, 0, collect, &b, NULL, NULL);
	for (size_t at = 0; at < b.len; at += strlen((char *)b.data + at) + 1)
		if (store_remove(store, (char *)b.data + at, NULL, NULL, NULL) != STORE_OK)
			left++;
	buf_clear(&b);
	if (r == STORE_OK)
		r = store_list(store, key_of("%s", ""), NULL, 0, collect, &b, NULL, NULL);
	store_close(store);
	if (r != STORE_OK || left || b.len) {
		print_error("%d objects could not be removed\n", left);
		return -1;
	}
	return 0;
}

int main(void)
{
	static struct CMUnitTest
		all[128]; /* what is left over has no test function: cmocka skips it */
	size_t n = 0;

#define ADD(what)                                                                                  \
	memcpy(all + n, what##_cases, what##_case_count * sizeof(all[0]));                         \
	n += what##_case_count
	ADD(object);
	ADD(condition);
	ADD(list);
	ADD(layer);
	ADD(upload);
	return cmocka_run_group_tests_name(
		getenv("CONTRACT_NAME") ? getenv("CONTRACT_NAME") : "store", all, setup, teardown);
}

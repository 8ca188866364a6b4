/* What the cases of the contract suite share: the store under test and short names for common
 * steps. */
#ifndef CONTRACT_H
#define CONTRACT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/store/layers.h"
#include "src/base/buf.h"

/* The store under test, probed; and how it was opened. */
extern struct store *store;
extern unsigned capabilities;
struct store *contract_open(void);
struct store *contract_open_with(const char *credentials_file);

/* A key below this run's own prefix; a few calls' results stay valid, per thread. */
const char *key_of(const char *fmt, ...) PRINTF(1, 2);
/* Asserts that r is want; otherwise prints the store's account of it. */
void expect_at(enum store_result r, enum store_result want, const struct store_error *e,
	const char *file, int line);
#define expect(want, call)                                                                         \
	do {                                                                                       \
		struct store_error err_ = {0}, *E = &err_;                                         \
		enum store_result r_ = (call);                                                     \
		expect_at(r_, want, E, __FILE__, __LINE__);                                        \
	} while (0)

/* Puts, gets and compares; assert success. */
void put_text(const char *key, const char *text, char *etag);
void assert_text(const char *key, const char *text);
/* Skips the case when the store lacks a capability (that it should have is asserted by the probe's
 * case). */
#define need(cap)                                                                                  \
	do {                                                                                       \
		if (!(capabilities & (cap)))                                                       \
			skip();                                                                    \
	} while (0)

extern const struct CMUnitTest object_cases[], condition_cases[], list_cases[], layer_cases[],
	upload_cases[];
extern const size_t object_case_count, condition_case_count, list_case_count, layer_case_count,
	upload_case_count;

#endif

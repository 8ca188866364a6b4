/* The layers over a backend. Each constructor takes ownership of inner (also on failure, which
 * is only memory: they abort then) and returns a store whose close releases both. */
#ifndef STORE_LAYERS_H
#define STORE_LAYERS_H

#include "replicator/store/store.h"

/* Repeats passing failures with jittered exponential backoff until attempts or the deadline are
 * used up. A put, copy or remove whose outcome is unknown is verified by HEAD (same size and
 * metadata: it happened; for remove: absent) before it is repeated. */
struct store *store_retry_new(struct store *inner, unsigned attempts, int64_t timeout_ms);

/* At most connections calls at once, of those at most three quarters (but one) bulk. Others wait,
 * urgent ones first, those of one priority in order of arrival, up to their deadline; an eighth of the
 * connections (but one) is bulk's before it is a normal call's. A store that answers STORE_THROTTLED
 * gets fewer at once, down to one, and more again as it answers otherwise. Of normal calls 16 are
 * under way at once, and more where that does not double their time (window.h). */
struct store *store_limit_new(struct store *inner, unsigned connections);
/* How many calls the limit layer at or below s lets through at once now, and at most; 0 and 0 when
 * there is none. */
void store_limit_read(struct store *s, unsigned *ret_allowed, unsigned *ret_connections);

/* At most so many bytes of bodies a second each way, and so many calls; each may depend on the time,
 * and a change holds within half a second for what is under way as well. Urgent calls do not wait, but
 * count. Deadlines are stretched to what 32 calls need that share the lowest bandwidth. */
struct store *store_pace_new(
	struct store *inner, const struct schedule *bytes, const struct schedule *requests);
struct store_pace_limit {
	uint64_t per_second; /* now; 0: no limit */
	int64_t until_ms;    /* realtime: when it is another one; 0: always the same */
};
/* The limits of the pace layer at or below s; all zero when there is none. */
void store_pace_read(
	struct store *s, struct store_pace_limit *ret_bytes, struct store_pace_limit *ret_requests);

/* Counts requests, errors and body bytes into src/base/metrics.h and into itself. */
struct store *store_stats_new(struct store *inner);

struct store_counts {
	uint64_t results[STORE_RESULT_COUNT]; /* requests by result */
	uint64_t bytes_sent;		      /* bodies only */
	uint64_t bytes_received;
};
/* The counts of the stats layer at or below s; all zero when there is none. */
void store_stats_read(struct store *s, struct store_counts *ret);

/* Faults for tests and the simulation. hook is asked before and after each call and may turn it
 * into a failure: before (did_happen = false) a returned code other than STORE_OK replaces the
 * call; after (did_happen = true) it replaces the answer of a call that succeeded. */
typedef enum store_result (*store_fault_hook)(
	void *ctx, const char *op, const char *key, bool did_happen);
struct store *store_fault_new(struct store *inner, store_fault_hook hook, void *ctx);

/* For implementers. The gateway passes call, error, condition, etag (put, copy), prefix, and
 * meta (put, copy) as non-NULL pointers to every op, and clears object and meta after a get or
 * head that failed. */

/* One step of an upload, listing of uploads, of the next layer in; STORE_UNSUPPORTED when it has none. */
enum store_result store_inner_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error);
enum store_result store_inner_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error);

/* Sets error->text and returns r. */
enum store_result store_error_set(
	struct store_error *error, enum store_result r, const char *fmt, ...) PRINTF(3, 4);
/* STORE_LOCAL with local_errno = -code (code is -errno). */
enum store_result store_error_local(struct store_error *error, int code, const char *what);
/* STORE_LOCAL (ECANCELED) once the call is cancelled, STORE_TIMEOUT once its deadline has passed,
 * otherwise STORE_OK. */
enum store_result store_call_check(const struct store_call *call, struct store_error *error);

/* Backends. */
int store_dir_open(
	const struct store_config *config, struct store **ret, struct err *err) MUST_CHECK;
/* store_exists. */
int store_dir_exists(const struct store_config *config, struct err *err) MUST_CHECK;
int store_s3_open(
	const struct store_config *config, struct store **ret, struct err *err) MUST_CHECK;

#endif

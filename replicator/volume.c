/*
 * The volume's identity: .meridian/volume.json in every region holds one id, and a bucket with
 * another id is never touched.
 *
 * Founding. Servers that start at the same moment over empty buckets must agree on one id without
 * talking to each other. The region whose name sorts first is the founder: only there is an id ever
 * drawn, by a conditional put that one of them wins; the other regions get a copy of what the
 * founder holds. A server that has no id yet first reads every region that answers and takes what
 * it finds; when two differ it takes neither.
 *
 * A region that was used once (region_used) is never founded again: where its bucket has lost its
 * volume nothing is written to it.
 *
 * Format: {"format":1,"volume_id":"<32 hex>","name":"…","created":<ms>}; other members are ignored.
 */
#include "replicator/region.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cache/meta.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/json.h"
#include "src/base/log.h"
#include "src/base/random.h"

enum { VOLUME_BYTES_MAX = 65536, OTHER_TIMEOUT_MS = 3000 };

static int failed(const struct region *r, const char *what, enum store_result result,
	const struct store_error *error, struct err *err)
{
	char text[256];

	store_failure_text(text, sizeof(text), what, result, error);
	if (result == STORE_DENIED)
		return err_set(err, -EACCES,
			"region \"%s\": access denied: %s\n"
			"hint: check the credentials, the bucket's name, this machine's clock and, where the store's "
			"certificate is not trusted, ca_bundle",
			r->name, text);
	return err_set(err, -EHOSTDOWN, "region \"%s\": %s", r->name, text);
}

static void cleanup_json(struct json_object **o)
{
	json_object_free(*o);
}

static int parse(
	const struct region *r, const struct buf *b, char id[VOLUME_ID_SIZE], struct err *err)
{
	CLEANUP(cleanup_json) struct json_object *o = NULL;
	uint8_t raw[16];
	int64_t format;
	const char *text;

	if (json_parse((const char *)b->data, b->len, &o) < 0 ||
		!json_get_int(o, "format", &format))
		return err_set(err, -EMEDIUMTYPE,
			"region \"%s\": %s is not a Meridian volume file\n"
			"hint: use another bucket or prefix, or restore that object",
			r->name, VOLUME_KEY);
	if (format != VOLUME_FORMAT)
		return err_set(err, -EPROTONOSUPPORT,
			"region \"%s\": the bucket has format %" PRId64 ", this program knows %d\n"
			"hint: upgrade meridian on this server",
			r->name, format, VOLUME_FORMAT);
	text = json_get_str(o, "volume_id");
	if (!text || !hex_decode(text, raw, sizeof(raw)))
		return err_set(err, -EMEDIUMTYPE, "region \"%s\": %s holds no volume id", r->name,
			VOLUME_KEY);
	hex_encode(raw, sizeof(raw), id);
	return 0;
}

/* 0, -ENOENT (the store says: absent), or as volume_check. */
static int read_id(struct region *r, int64_t deadline_ms, char id[VOLUME_ID_SIZE], struct err *err)
{
	struct store_call call = {.deadline_ms = deadline_ms,
		.cancel = &r->all->cancel,
		.priority = STORE_URGENT};
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};

	enum store_result result = store_get_buf(
		r->store, VOLUME_KEY, VOLUME_BYTES_MAX, &b, NULL, NULL, &call, &error);
	if (result == STORE_ABSENT)
		return -ENOENT;
	if (result == STORE_TOO_LARGE)
		return err_set(err, -EMEDIUMTYPE, "region \"%s\": %s is not a Meridian volume file",
			r->name, VOLUME_KEY);
	if (result != STORE_OK)
		return failed(r, "get " VOLUME_KEY, result, &error, err);
	return parse(r, &b, id, err);
}

/* Puts id there unless something is; then id becomes what is there. */
static int create(struct region *r, int64_t deadline_ms, char id[VOLUME_ID_SIZE], struct err *err)
{
	struct store_call call = {.deadline_ms = deadline_ms,
		.cancel = &r->all->cancel,
		.priority = STORE_URGENT};
	struct store_condition absent = {.if_absent = true};
	struct store_error error = {0};
	struct json *j = json_new();

	json_put_int(j, "format", VOLUME_FORMAT);
	json_put_str(j, "volume_id", id);
	json_put_str(j, "name", r->all->volume);
	json_put_int(j, "created", clock_realtime_ms());
	AUTO_FREE char *text = json_text(j);
	json_free(j);
	if (!text)
		return err_set(err, -ENOMEM, "region \"%s\": out of memory", r->name);
	enum store_result result = store_put_buf(
		r->store, VOLUME_KEY, text, strlen(text), NULL, &absent, NULL, &call, &error);
	if (result == STORE_UNSUPPORTED) /* then the last one wins, and what is read back decides */
		result = store_put_buf(
			r->store, VOLUME_KEY, text, strlen(text), NULL, NULL, NULL, &call, &error);
	if (result != STORE_OK && result != STORE_EXISTS)
		return failed(r, "put " VOLUME_KEY, result, &error, err);
	int code = read_id(r, deadline_ms, id, err);
	if (code == -ENOENT)
		return err_set(err, -EHOSTDOWN, "region \"%s\": %s vanished after it was written",
			r->name, VOLUME_KEY);
	return code;
}

static struct region *founder(struct regions *all)
{
	struct region *first = &all->region[0];

	for (unsigned i = 1; i < all->count; i++) {
		if (strcmp(all->region[i].name, first->name) < 0)
			first = &all->region[i];
	}
	return first;
}

/* Finds the id in the regions that answer, or founds it. */
static int found(struct region *r, int64_t deadline_ms, char id[VOLUME_ID_SIZE], struct err *err)
{
	struct regions *all = r->all;
	struct region *first = founder(all), *from = NULL;
	bool first_absent = false;
	char other[VOLUME_ID_SIZE];

	for (unsigned i = 0; i < all->count; i++) {
		struct region *o = &all->region[i];
		int64_t soon = clock_monotonic_ms() + OTHER_TIMEOUT_MS;
		bool mine = o == r || o == first;
		int code = read_id(o, mine || deadline_ms < soon ? deadline_ms : soon, other,
			o == r ? err : NULL);

		if (code == -ENOENT && o == first)
			first_absent = true;
		if (code < 0 && code != -ENOENT && o == r)
			return code;
		if (code < 0)
			continue;
		if (from && strcmp(id, other) != 0)
			return err_set(err, -EMEDIUMTYPE,
				"regions \"%s\" and \"%s\" hold different volumes (%s and %s)\n"
				"hint: one of their urls names the wrong bucket",
				from->name, o->name, id, other);
		from = o;
		memcpy(id, other, VOLUME_ID_SIZE);
	}
	if (from)
		return 0;
	if (!first_absent)
		return err_set(err, -EHOSTDOWN,
			"region \"%s\": waiting for region \"%s\", which founds the volume, to "
			"answer",
			r->name, first->name);
	uint8_t raw[16];
	random_bytes(raw, sizeof(raw));
	hex_encode(raw, sizeof(raw), id);
	return create(first, deadline_ms, id, err);
}

static int remember(struct regions *all, const char *id)
{
	struct conn *conn;
	int code = cache_begin(all->cache, &conn);

	if (code < 0)
		return code;
	code = meta_set_text(conn, "volume_id", id);
	if (code < 0) {
		cache_rollback(conn);
		return code;
	}
	return cache_commit(conn);
}

/* The volume's id into id, from memory or by founding; one thread at a time does that. */
static int volume_id(
	struct region *r, int64_t deadline_ms, char id[VOLUME_ID_SIZE], struct err *err)
{
	struct regions *all = r->all;

	mutex_lock(&all->lock);
	memcpy(id, all->volume_id, VOLUME_ID_SIZE);
	bool busy = all->founding;
	if (!id[0] && !busy)
		all->founding = true;
	mutex_unlock(&all->lock);
	if (id[0])
		return 0;
	if (busy)
		return err_set(
			err, -EAGAIN, "region \"%s\": the volume's id is being looked up", r->name);
	int code = found(r, deadline_ms, id, err);
	if (code == 0) {
		code = remember(all, id);
		if (code < 0)
			err_errno(err, code, "cannot record the volume's id");
	}
	mutex_lock(&all->lock);
	all->founding = false;
	if (code == 0)
		memcpy(all->volume_id, id, VOLUME_ID_SIZE);
	mutex_unlock(&all->lock);
	return code;
}

/* A bucket that was this volume's and holds no volume now is another one, or was emptied: a share that
 * is not mounted, a url that was changed. What it got would be missing elsewhere for ever, because
 * what it had is not sent again. */
static int vanished(const struct region *r, struct err *err)
{
	return err_set(err, -ENODEV,
		"region \"%s\": " VOLUME_KEY " is gone from %.150s, which this server has used: is its "
		"disk mounted, is the url right?\n"
		"hint: a bucket that was emptied is filled again by meridian reconcile --restore --region %s",
		r->name, r->url, r->name);
}

/* Before anything else is sent. */
static int note_used(struct region *r, bool known, struct err *err)
{
	int code = region_is_used(r) ? 0 : region_set_used(r->all->cache, r->id, known);
	if (code < 0)
		return err_errno(err, code, "region \"%s\": cannot record its use", r->name);
	mutex_lock(&r->lock);
	r->used = true;
	mutex_unlock(&r->lock);
	return 0;
}

/* Tells operators who uses the bucket; nothing depends on it. */
static void put_node(struct region *r, int64_t deadline_ms)
{
	struct store_call call = {.deadline_ms = deadline_ms,
		.cancel = &r->all->cancel,
		.priority = STORE_URGENT};
	struct store_error error = {0};
	char host[256] = "", key[64], node[17];
	struct json *j = json_new();

	gethostname(host, sizeof(host) - 1);
	snprintf(node, sizeof(node), "%016" PRIx64, cache_node(r->all->cache));
	snprintf(key, sizeof(key), ".meridian/nodes/%s.json", node);
	json_put_str(j, "node", node);
	json_put_str(j, "host", host);
	json_put_str(j, "version", MERIDIAN_VERSION);
	json_put_int(j, "started", clock_realtime_ms());
	AUTO_FREE char *text = json_text(j);
	json_free(j);
	if (!text)
		return;
	enum store_result result =
		store_put_buf(r->store, key, text, strlen(text), NULL, NULL, NULL, &call, &error);
	(void)result;
}

int volume_check(struct region *r, int64_t deadline_ms, struct err *err)
{
	char ours[VOLUME_ID_SIZE], theirs[VOLUME_ID_SIZE];

	int code = volume_id(r, deadline_ms, ours, err);
	if (code < 0)
		return code;
	code = read_id(r, deadline_ms, theirs, err);
	if (code == -ENOENT && region_is_used(r))
		return vanished(r, err);
	bool known = code == 0;
	if (code == -ENOENT) {
		memcpy(theirs, ours, sizeof(theirs));
		code = create(r, deadline_ms, theirs, err);
	}
	if (code < 0)
		return code;
	if (strcmp(ours, theirs) != 0)
		return err_set(err, -EMEDIUMTYPE,
			"region \"%s\": the bucket belongs to another volume (%s; this one is %s)\n"
			"hint: check the region's url, or use an empty bucket or prefix",
			r->name, theirs, ours);
	code = note_used(r, known, err);
	if (code < 0)
		return code;
	mutex_lock(&r->lock);
	bool checked = r->checked;
	mutex_unlock(&r->lock);
	if (!checked)
		put_node(r, deadline_ms);
	return 0;
}

int volume_put_back(struct region *r, int64_t deadline_ms, struct err *err)
{
	char ours[VOLUME_ID_SIZE], theirs[VOLUME_ID_SIZE];

	int code = volume_id(r, deadline_ms, ours, err);
	if (code < 0)
		return code;
	code = read_id(r, deadline_ms, theirs, err);
	if (code != -ENOENT)
		return code;
	/* Before it is put back, as afterwards nobody knows that the log was gone. */
	code = region_seed_again(r->all->cache, r->id);
	if (code < 0)
		return err_errno(err, code, "region \"%s\": cannot record that it is to be filled", r->name);
	memcpy(theirs, ours, sizeof(theirs));
	code = create(r, deadline_ms, theirs, err);
	if (code < 0 || region_up(r, REGION_READ))
		return code;
	log_warn("the volume is put back into an empty bucket region=%s", r->name);
	code = region_check(r, deadline_ms, err);
	return code == -EAGAIN ? 0 : code;
}

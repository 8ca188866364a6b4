/*
 * Pages of a scan's phases, and the parts of its listing.
 *
 * The listing and the rows of what is known are in one order, so a page is joined with the rows
 * between its ends. Known and listed as known: nothing more is done. What the bucket keeps for
 * Meridian itself is jumped over.
 *
 * Parts. A store lists one page after the other; to list in parallel, the first names below the root
 * (or below the one directory that there is) are asked for one by one, each by a listing of one key
 * that starts behind the name before.
 */
#include "replicator/reconcile_internal.h"

#include <errno.h>
#include <stdio.h>

#include "cache/outbox.h"
#include "src/base/clock.h"

#define RESERVED ".meridian/"
#define BEHIND_RESERVED ".meridian/~" /* all names there begin with a lower-case letter */

void range_done(struct range *r)
{
	free(r->prefix);
	free(r->after);
	free(r->until);
	buf_done(&r->low);
	buf_done(&r->high);
	*r = (struct range){0};
}

static int set_text(char **to, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	free(*to);
	*to = copy;
	return 0;
}

/* The least byte string after text. */
static int set_successor(struct buf *b, const char *text)
{
	buf_clear(b);
	buf_put(b, text, strlen(text) + 1);
	return b->failed ? -ENOMEM : 0;
}

static struct slice slice_of_buf(const struct buf *b)
{
	return (struct slice){(const char *)b->data, b->len};
}

/* ---- a page of the listing ---- */

struct listed {
	char *key;
	struct store_object object;
};

struct page {
	struct scan *scan;
	struct range *range;
	struct listed item[SCAN_PAGE];
	unsigned count;
	unsigned keys; /* met, whatever they are */
	char last[STORE_KEY_MAX + 1];
	bool reserved; /* ended at what is Meridian's own */
	bool end;      /* of the range */
	int error;
};

struct rows {
	struct {
		char *key;
		struct object_seen seen;
	} row[SCAN_PAGE];
	unsigned count;
};

static int list_key(void *ctx, const char *key, const struct store_object *object)
{
	struct page *p = ctx;

	const char *before = p->keys ? p->last : p->range->after;

	/* Otherwise this would never end, or take what is there for gone. */
	if (before && strcmp(key, before) <= 0) {
		p->error = -EBADMSG;
		return 1;
	}
	if (p->range->until && strcmp(key, p->range->until) > 0) {
		p->end = true;
		return 1;
	}
	p->keys++;
	snprintf(p->last, sizeof(p->last), "%s", key);
	if (strncmp(key, RESERVED, strlen(RESERVED)) == 0) {
		p->reserved = strcmp(key, BEHIND_RESERVED) < 0;
		return p->reserved;
	}
	p->item[p->count].key = strdup(key);
	if (!p->item[p->count].key) {
		p->error = -ENOMEM;
		return 1;
	}
	p->item[p->count++].object = *object;
	return p->count == SCAN_PAGE;
}

static bool list_page(struct scan *s, struct page *p)
{
	struct store_call call = region_call(s->region, 0);
	struct store_error error = {0};

	if (!region_begin(s->region, REGION_READ)) {
		struct err err = {0};

		scan_fail(s,
			err_set(&err, -EHOSTDOWN, "region \"%s\" does not answer", s->region->name),
			&err);
		return false;
	}
	enum store_result r = store_list(s->region->store, p->range->prefix, p->range->after,
		SCAN_PAGE, list_key, p, &call, &error);
	region_end(s->region, REGION_READ, r, &error, "list objects");
	if (r != STORE_OK) {
		scan_request_failed(s, NULL, "list objects", r, &error);
		return false;
	}
	if (p->error < 0) {
		struct err err = {0};

		if (p->error == -EBADMSG)
			(void)err_set(&err, p->error, "region \"%s\" lists its keys out of order",
				s->region->name);
		scan_fail(s, p->error, &err);
		return false;
	}
	p->end = p->end || (!p->reserved && p->keys < SCAN_PAGE);
	scan_add(s, &s->counts.objects, p->count);
	return true;
}

static int add_row(void *ctx, const char *key, const struct object_seen *row)
{
	struct rows *rows = ctx;

	rows->row[rows->count].key = strdup(key);
	if (!rows->row[rows->count].key)
		return -ENOMEM;
	rows->row[rows->count++].seen = *row;
	return 0;
}

static void rows_clear(struct rows *rows)
{
	while (rows->count)
		free(rows->row[--rows->count].key);
}

static int read_rows(struct scan *s, struct slice low, struct slice high, struct rows *rows)
{
	struct conn *conn;
	int r = cache_read_begin(s->cache, &conn);

	if (r < 0)
		return r;
	r = object_seen_scan(conn, s->region->id, low, high, SCAN_PAGE, add_row, rows);
	cache_read_end(conn);
	return r;
}

/* A listed object that is not, or not as listed, among the rows. */
static void push_listed(struct scan *s, struct listed *item, const struct object_seen *row)
{
	struct candidate c = {
		.kind = CANDIDATE_LISTED, .key = item->key, .size = item->object.size};
	bool directory;
	struct key path;

	item->key = NULL;
	if (object_key_to_path(c.key, &path, &directory) < 0) {
		scan_found(s, FOUND_INVALID, c.key);
		free(c.key);
		return;
	}
	c.seen = row != NULL;
	if (row)
		c.row = *row;
	scan_push(s, &c);
}

/* Whether a known object that is not listed has to be thought about; it is forgotten if not. */
static int sort_out(struct scan *s, struct conn *conn, const char *key, bool *gone)
{
	CLEANUP(entry_done) struct entry e = {0};
	bool directory;
	struct key path;

	*gone = false;
	if (object_key_to_path(key, &path, &directory) < 0)
		return object_seen_drop(conn, s->region->id, key);
	int r = entry_get(conn, key_slice(&path), &e);
	if (r < 0 && r != -ENOENT)
		return r;
	*gone = r == 0 && entry_live(&e) && (e.kind == KIND_DIR) == directory;
	if (!*gone)
		return object_seen_drop(conn, s->region->id, key);
	return object_gone_add(conn, s->region->id, key);
}

static int keep_gone(struct scan *s, const struct rows *gone)
{
	struct conn *conn;
	uint64_t count = 0;
	int r = cache_begin_lazy(s->cache, &conn);

	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < gone->count; i++) {
		bool is_gone;

		r = sort_out(s, conn, gone->row[i].key, &is_gone);
		count += is_gone;
	}
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	r = cache_commit(conn);
	if (r == 0)
		scan_add(s, &s->gone, count);
	return r;
}

static void push_gone(struct scan *s, struct rows *gone)
{
	for (unsigned i = 0; i < gone->count; i++) {
		struct candidate c = {.kind = CANDIDATE_GONE,
			.key = gone->row[i].key,
			.seen = true,
			.row = gone->row[i].seen};

		scan_push(s, &c);
	}
	gone->count = 0;
}

/* One read of rows against what is left of the page; *at moves over what is listed below or at the
 * last of them. */
static void join_rows(
	struct scan *s, struct page *p, unsigned *at, struct rows *rows, struct rows *gone)
{
	for (unsigned i = 0; i < rows->count; i++) {
		int order = -1;

		while (*at < p->count && (order = strcmp(p->item[*at].key, rows->row[i].key)) < 0)
			push_listed(s, &p->item[(*at)++], NULL);
		if (*at < p->count && order == 0) {
			struct listed *item = &p->item[(*at)++];
			uint64_t tag = object_seen_tag(item->object.etag, item->object.size);

			if (rows->row[i].seen.tag != tag)
				push_listed(s, item, &rows->row[i].seen);
		} else {
			gone->row[gone->count++] = rows->row[i];
			rows->row[i].key = NULL;
		}
	}
	scan_add(s, &s->known, rows->count);
}

static int join_with(struct scan *s, struct page *p, struct rows *rows, struct rows *gone)
{
	CLEANUP(buf_done) struct buf upto = {0};
	unsigned at = 0, read;
	int r = 0;

	if (p->end)
		buf_put(&upto, p->range->high.data, p->range->high.len);
	else
		r = set_successor(&upto, p->reserved ? BEHIND_RESERVED : p->last);
	if (upto.failed)
		r = -ENOMEM;
	do {
		if (r < 0)
			return r;
		r = read_rows(s, slice_of_buf(&p->range->low),
			upto.len ? slice_of_buf(&upto) : (struct slice){NULL, 0}, rows);
		read = rows->count;
		if (r == 0 && read)
			r = set_successor(&p->range->low, rows->row[read - 1].key);
		if (r == 0)
			join_rows(s, p, &at, rows, gone);
		rows_clear(rows);
		if (r == 0 && s->q->dry_run)
			push_gone(s, gone);
		else if (r == 0 && gone->count)
			r = keep_gone(s, gone);
		rows_clear(gone);
	} while (read == SCAN_PAGE);
	while (r == 0 && at < p->count)
		push_listed(s, &p->item[at++], NULL);
	buf_clear(&p->range->low);
	buf_put(&p->range->low, upto.data, upto.len);
	return p->range->low.failed ? -ENOMEM : r;
}

static int join(struct scan *s, struct page *p)
{
	AUTO_FREE struct rows *rows = calloc(1, sizeof(*rows));
	AUTO_FREE struct rows *gone = calloc(1, sizeof(*gone));
	int r = rows && gone ? join_with(s, p, rows, gone) : -ENOMEM;

	if (rows)
		rows_clear(rows);
	if (gone)
		rows_clear(gone);
	return r;
}

static void page_of_list(struct scan *s, struct range *range)
{
	struct page *p = calloc(1, sizeof(*p));
	int r = p ? 0 : -ENOMEM;

	if (r == 0) {
		p->scan = s;
		p->range = range;
		if (!list_page(s, p))
			range->done = true; /* so is the scan */
		else
			r = join(s, p);
		if (r == 0 && !range->done)
			r = set_text(&range->after, p->reserved ? BEHIND_RESERVED : p->last);
		range->done = range->done || p->end;
		for (unsigned i = 0; i < p->count; i++)
			free(p->item[i].key);
	}
	free(p);
	if (r < 0)
		scan_fail(s, r, NULL);
}

/* ---- what is gone ---- */

static void page_of_gone(struct scan *s, struct range *range)
{
	AUTO_FREE struct rows *rows = calloc(1, sizeof(*rows));
	struct conn *conn;
	int r = rows ? cache_read_begin(s->cache, &conn) : -ENOMEM;

	if (r == 0) {
		r = object_gone_scan(conn, s->region->id, range->after ? range->after : "",
			SCAN_PAGE, add_row, rows);
		for (unsigned i = 0; r == 0 && i < rows->count; i++) {
			r = object_seen_get(
				conn, s->region->id, rows->row[i].key, &rows->row[i].seen);
			if (r == -ENOENT) /* settled meanwhile: its row is all zero */
				r = 0;
		}
		cache_read_end(conn);
	}
	if (r == 0 && rows->count)
		r = set_text(&range->after, rows->row[rows->count - 1].key);
	range->done = r < 0 || rows->count < SCAN_PAGE;
	if (r == 0)
		push_gone(s, rows);
	if (r < 0)
		scan_fail(s, r, NULL);
	if (rows)
		rows_clear(rows);
}

/* ---- entries of which no object is known ---- */

struct unseen {
	struct scan *scan;
	struct conn *conn;
	struct outbox_row *row;
	char *key[SCAN_PAGE];
	unsigned count;
	unsigned met;
	uint64_t waiting;
	struct key last;
};

/* Nobody would put it there yet (reconcile_judge.c), so it is not asked for. */
static bool too_early(const struct scan *s, const struct entry *e)
{
	int64_t age = clock_realtime_ms() - (int64_t)hlc_ms(entry_stamp(e).time);

	return age < s->o->grace_ms ||
	       (e->content_stamp.node != cache_node(s->cache) && age < reconcile_deputy_ms(s->o));
}

static int look_for(struct unseen *u, struct slice path, const struct entry *e)
{
	unsigned region = u->scan->region->id;
	char key[STORE_KEY_MAX + 1];
	struct object_seen seen;
	int r;

	if (object_key_from_path(path, e->kind == KIND_DIR, key) < 0)
		return 0; /* it cannot be there */
	r = object_seen_get(u->conn, region, key, &seen);
	if (r == -ENOENT && too_early(u->scan, e)) {
		u->waiting++;
		return 0;
	}
	if (r != -ENOENT)
		return r;
	r = outbox_get(u->conn, region, path, u->row);
	if (r != -ENOENT)
		return r;
	u->key[u->count] = strdup(key);
	if (!u->key[u->count])
		return -ENOMEM;
	u->count++;
	return 0;
}

static int meet_entry(void *ctx, struct slice path)
{
	CLEANUP(entry_done) struct entry e = {0};
	struct unseen *u = ctx;

	u->met++;
	if (!key_set(&u->last, path))
		return -EIO;
	if (!path.len)
		return 0;
	int r = entry_get(u->conn, path, &e);
	return r < 0 ? r : look_for(u, path, &e);
}

static int find_unseen(struct scan *s, struct range *range, struct unseen *u)
{
	struct slice after = range->after ? slice_of(range->after) : (struct slice){NULL, 0};
	int r = cache_read_begin(s->cache, &u->conn);

	if (r < 0)
		return r;
	r = entry_scan(u->conn, key_slice(&s->path), after, true, SCAN_PAGE, meet_entry, u);
	cache_read_end(u->conn);
	if (r == 0 && u->met)
		r = set_text(&range->after, u->last.p);
	return r;
}

static void page_of_entries(struct scan *s, struct range *range)
{
	struct unseen *u = calloc(1, sizeof(*u));
	int r = u && (u->row = malloc(sizeof(*u->row))) ? 0 : -ENOMEM;

	if (r == 0) {
		u->scan = s;
		r = find_unseen(s, range, u);
	}
	range->done = r < 0 || u->met < SCAN_PAGE;
	if (r == 0)
		scan_add(s, &s->counts.waiting, u->waiting);
	for (unsigned i = 0; u && i < u->count; i++) {
		struct candidate c = {.kind = CANDIDATE_UNSEEN, .key = u->key[i]};

		if (r == 0)
			scan_push(s, &c);
		else
			free(u->key[i]);
	}
	if (u)
		free(u->row);
	free(u);
	if (r < 0)
		scan_fail(s, r, NULL);
}

void scan_page(struct scan *s, struct range *r)
{
	switch (r->phase) {
	case PHASE_LIST:
		page_of_list(s, r);
		return;
	case PHASE_GONE:
		page_of_gone(s, r);
		return;
	case PHASE_ENTRIES:
		page_of_entries(s, r);
		return;
	}
}

/* ---- parts ---- */

static int add_range(struct scan *s, const char *prefix, const char *after, const char *until)
{
	struct range *r = &s->range[s->ranges];
	int code;

	*r = (struct range){.phase = PHASE_LIST};
	s->ranges++;
	code = set_text(&r->prefix, prefix);
	if (code == 0 && after) {
		code = set_text(&r->after, after);
		if (code == 0)
			code = set_successor(&r->low, after);
	}
	if (code == 0 && until) {
		code = set_text(&r->until, until);
		if (code == 0)
			code = set_successor(&r->high, until);
	}
	return code;
}

/* The path itself, as a file; and all that begins with it and a slash. */
static int split_path(struct scan *s)
{
	char key[STORE_KEY_MAX + 1], end[STORE_KEY_MAX + 1];
	int r = object_key_from_path(key_slice(&s->path), false, key);

	if (r == 0)
		r = add_range(s, key, NULL, key);
	if (r < 0)
		return r;
	buf_clear(&s->range[0].low);
	buf_put_str(&s->range[0].low, key);
	r = object_key_from_path(key_slice(&s->path), true, key);
	if (r == 0)
		r = add_range(s, key, NULL, NULL);
	if (r < 0)
		return r;
	snprintf(end, sizeof(end), "%s", key);
	end[strlen(end) - 1]++; /* the slash becomes the byte after it */
	buf_put_str(&s->range[1].low, key);
	buf_put_str(&s->range[1].high, end);
	return s->range[0].low.failed || s->range[1].low.failed || s->range[1].high.failed ? -ENOMEM
											   : 0;
}

static int take_first(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	snprintf(ctx, STORE_KEY_MAX + 1, "%s", key);
	return 1;
}

/* The first key after one; "" when there is none. False: no answer. */
static bool first_after(struct scan *s, const char *after, char key[STORE_KEY_MAX + 1])
{
	struct store_call call = region_call(s->region, 0);
	struct store_error error = {0};

	key[0] = '\0';
	enum store_result r = store_list(
		s->region->store, "", after[0] ? after : NULL, 1, take_first, key, &call, &error);
	region_end(s->region, REGION_READ, r, &error, "list objects");
	if (r != STORE_OK)
		scan_request_failed(s, NULL, "list objects", r, &error);
	return r == STORE_OK;
}

/* Where the name below depth bytes of key ends, and all that is below it: "a/b/c" of depth 2 gives "a/b0",
 * because '0' follows the slash. False: the key is a name itself. */
static bool behind_name(const char *key, size_t depth, char end[STORE_KEY_MAX + 1])
{
	const char *slash = strchr(key + depth, '/');

	if (!slash)
		return false;
	snprintf(end, STORE_KEY_MAX + 1, "%.*s0", (int)(slash - key), key);
	return true;
}

struct bounds {
	char at[SCAN_RANGES][STORE_KEY_MAX + 1];
	unsigned count;
};

/* The ends of the directories that have prefix, as far as a few requests tell. */
static bool find_bounds(struct scan *s, const char *prefix, struct bounds *b)
{
	char after[STORE_KEY_MAX + 1], key[STORE_KEY_MAX + 1];
	size_t depth = strlen(prefix);

	b->count = 0;
	snprintf(after, sizeof(after), "%s", prefix[0] ? prefix : "");
	for (unsigned i = 0; i < SCAN_RANGES && b->count < SCAN_RANGES - 1; i++) {
		if (!first_after(s, after, key))
			return false;
		if (!key[0] || strncmp(key, prefix, depth) != 0)
			return true;
		if (strncmp(key, RESERVED, strlen(RESERVED)) == 0)
			snprintf(after, sizeof(after), BEHIND_RESERVED);
		else if (behind_name(key, depth, after))
			memcpy(b->at[b->count++], after, sizeof(after));
		else
			snprintf(after, sizeof(after), "%s", key);
	}
	return true;
}

static int split_all(struct scan *s)
{
	AUTO_FREE struct bounds *b = calloc(1, sizeof(*b));
	char prefix[STORE_KEY_MAX + 1] = "";
	const char *after = NULL;
	int r = b ? 0 : -ENOMEM;

	for (unsigned depth = 0; r == 0 && !s->q->alone && depth < 4; depth++) {
		if (!find_bounds(s, prefix, b))
			return 0; /* the scan has ended */
		if (b->count != 1)
			break;
		/* One directory: what lies in it? */
		snprintf(prefix, sizeof(prefix), "%s", b->at[0]);
		prefix[strlen(prefix) - 1] = '/';
	}
	for (unsigned i = 0; r == 0 && i < b->count; i++) {
		r = add_range(s, "", after, b->at[i]);
		after = b->at[i];
	}
	return r ? r : add_range(s, "", after, NULL);
}

int scan_split(struct scan *s)
{
	return s->path.len ? split_path(s) : split_all(s);
}

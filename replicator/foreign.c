/*
 * Why this file: one place that says what an object of another tool means. No state, no lock; all
 * that is read here was written by who knows whom, and what is no number is no value.
 *
 * mode. s3fs writes it in decimal with its type bits (33188), rclone in octal (100644). A decimal
 * number with possible type bits is s3fs's; otherwise octal digits are rclone's; a bare 644 or 0644
 * has no type bits and is octal.
 */
#include "replicator/foreign.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "replicator/region.h"

#define STAMP_END_MS 999

static uint64_t node_of(const char *what, const char *region)
{
	uint8_t hash[SHA256_SIZE];
	uint64_t node = 0;
	char text[128];

	snprintf(text, sizeof(text), "meridian %s %s", what, region);
	sha256(text, strlen(text), hash);
	for (unsigned i = 0; i < 8; i++)
		node = node << 8 | hash[i];
	return node ? node : 1;
}

uint64_t foreign_node(const char *region)
{
	return node_of("foreign", region);
}

uint64_t foreign_removal_node(const char *region)
{
	return node_of("removed", region);
}

bool foreign_is_node(const struct regions *all, uint64_t node)
{
	for (unsigned i = 0; i < all->count; i++) {
		if (foreign_node(all->region[i].name) == node)
			return true;
	}
	return false;
}

struct stamp foreign_stamp(const char *region, int64_t mtime_ms)
{
	int64_t ms = mtime_ms > 0 ? mtime_ms - mtime_ms % 1000 : 0;

	return (struct stamp){
		.time = (uint64_t)(ms + STAMP_END_MS) << 16, .node = foreign_node(region)};
}

/* ---- metadata ---- */

/* Digits of the base and nothing else. */
static bool number(const char *s, unsigned base, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;

	if (!s || !*s || strlen(s) > 20)
		return false;
	for (; *s; s++) {
		unsigned digit = (unsigned)(*s - '0');

		if (digit >= base || v > (max - digit) / base)
			return false;
		v = v * base + digit;
	}
	*ret = v;
	return true;
}

static bool type_of(uint64_t mode, enum kind *ret)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		*ret = KIND_FILE;
		return true;
	case S_IFDIR:
		*ret = KIND_DIR;
		return true;
	case S_IFLNK:
		*ret = KIND_SYMLINK;
		return true;
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		*ret = KIND_ABSENT;
		return true;
	default:
		return false;
	}
}

/* Without type bits: has_mode, and kind as it was. */
static void read_mode(const char *s, struct foreign_meta *m)
{
	uint64_t v;

	if (number(s, 10, 0177777, &v) && v > 07777 && type_of(v, &m->kind)) {
		m->has_mode = true;
	} else if (number(s, 8, 0177777, &v) && (v <= 07777 || type_of(v, &m->kind))) {
		m->has_mode = true;
		if (v <= 07777)
			m->kind = KIND_FILE;
	} else {
		return;
	}
	m->mode = (uint32_t)v & 07777;
}

/* Nanoseconds of ".123", at *s. */
static bool fraction(const char **s, int64_t *ns)
{
	int64_t unit = 100000000;

	*ns = 0;
	if (**s != '.')
		return true;
	if ((*s)[1] < '0' || (*s)[1] > '9')
		return false;
	for ((*s)++; **s >= '0' && **s <= '9'; (*s)++) {
		*ns += (**s - '0') * unit;
		unit /= 10;
	}
	return true;
}

static bool read_seconds(const char *s, int64_t *ret)
{
	bool negative = *s == '-';
	int64_t sec = 0, ns;

	s += negative;
	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++) {
		if (sec > 9000000000)
			return false;
		sec = sec * 10 + (*s - '0');
	}
	if (!fraction(&s, &ns) || *s || sec > 9000000000)
		return false;
	*ret = sec * 1000000000 + ns;
	if (negative)
		*ret = -*ret;
	return true;
}

/* 2024-05-06T07:08:09.123456789+02:00, or Z. */
static bool read_rfc3339(const char *s, int64_t *ret)
{
	struct tm tm = {0};
	unsigned hours = 0, minutes = 0;
	int64_t ns, away = 0;
	int used = 0;

	if (sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
		    &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &used) != 6 ||
		used != 19 || tm.tm_year < 1900 || tm.tm_mon < 1 || tm.tm_mon > 12)
		return false;
	s += used;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	if (!fraction(&s, &ns))
		return false;
	if (*s == '+' || *s == '-') {
		if (sscanf(s + 1, "%2u:%2u%n", &hours, &minutes, &used) != 2 || s[1 + used])
			return false;
		away = (int64_t)(hours * 3600 + minutes * 60) * (*s == '+' ? 1 : -1);
	} else if (strcmp(s, "Z") != 0) {
		return false;
	}
	*ret = ((int64_t)timegm(&tm) - away) * 1000000000 + ns;
	return true;
}

void foreign_meta_read(const struct store_meta *m, struct foreign_meta *ret)
{
	const char *mode = store_meta_get(m, "mode"), *mtime = store_meta_get(m, "mtime");
	uint64_t uid, gid;

	*ret = (struct foreign_meta){0};
	if (mode)
		read_mode(mode, ret);
	/* -1 is "leave it" in chown(2). */
	if (number(store_meta_get(m, "uid"), 10, UINT32_MAX - 1, &uid) &&
		number(store_meta_get(m, "gid"), 10, UINT32_MAX - 1, &gid)) {
		ret->has_owner = true;
		ret->uid = (uint32_t)uid;
		ret->gid = (uint32_t)gid;
	}
	ret->has_mtime = mtime && (read_seconds(mtime, &ret->mtime_ns) ||
					  read_rfc3339(mtime, &ret->mtime_ns));
}

/* ---- entries ---- */

enum kind foreign_kind(const struct foreign_object *o)
{
	enum kind said = o->meta->has_mode ? o->meta->kind : KIND_FILE;

	if (o->directory)
		return o->object->size == 0 && said != KIND_SYMLINK ? KIND_DIR : KIND_ABSENT;
	return said == KIND_DIR ? KIND_ABSENT : said;
}

static uint32_t usual_mode(enum kind kind)
{
	return kind == KIND_DIR ? 0755 : kind == KIND_SYMLINK ? 0777 : 0644;
}

static void put_attr(const struct foreign_object *o, enum kind kind, struct entry *e)
{
	const struct foreign_meta *m = o->meta;
	bool was = o->before && entry_live(o->before) && o->before->attr_stamp.time;

	if (was && !m->has_mode && !m->has_owner)
		return;
	if (!was) {
		buf_done(&e->xattrs);
		e->mode = usual_mode(kind);
		e->uid = o->uid;
		e->gid = o->gid;
	}
	if (m->has_mode)
		e->mode = m->mode;
	if (m->has_owner) {
		e->uid = m->uid;
		e->gid = m->gid;
	}
	e->attr_stamp = e->content_stamp;
}

int foreign_put(const struct foreign_object *o, struct entry *ret)
{
	const struct foreign_meta *m = o->meta;
	enum kind kind = foreign_kind(o);
	struct entry e = {0};

	if (o->before) {
		int r = entry_copy(&e, o->before);
		if (r)
			return r;
	}
	free(e.target);
	e.target = kind == KIND_SYMLINK ? strdup(o->target) : NULL;
	if (kind == KIND_SYMLINK && !e.target) {
		entry_done(&e);
		return -ENOMEM;
	}
	e.kind = kind;
	e.size = kind == KIND_FILE ? o->object->size : 0;
	memset(e.hash, 0, sizeof(e.hash));
	if (kind == KIND_FILE)
		memcpy(e.hash, o->hash, SHA256_SIZE);
	e.link = (struct link_id){0};
	e.content_mtime_ns =
		m->has_mtime ? m->mtime_ns : o->object->mtime_ms / 1000 * INT64_C(1000000000);
	e.content_stamp = foreign_stamp(o->region, o->object->mtime_ms);
	if (o->over) {
		/* The bucket says which was there first, whatever the clocks say. */
		if (e.content_stamp.time <= o->before->content_stamp.time)
			e.content_stamp.time = o->before->content_stamp.time + 1;
		vector_raise(&e.vector, o->before->content_stamp);
	} else if (o->before && !entry_live(o->before)) {
		/* There was nothing: it need not know why. */
		vector_raise(&e.vector, o->before->content_stamp);
	} else {
		e.vector.count = 0; /* it may not have seen what is there now */
	}
	vector_raise(&e.vector, e.content_stamp);
	put_attr(o, kind, &e);
	*ret = e;
	return 0;
}

/* All of v but s, and what its node wrote after it. */
static void forget(struct vector *v, struct stamp s)
{
	struct vector all = *v;

	v->count = 0;
	for (uint32_t i = 0; i < all.count; i++) {
		if (all.item[i].node == s.node && all.item[i].time >= s.time)
			all.item[i].time = s.time - 1;
		vector_raise(v, all.item[i]);
	}
}

int foreign_remove(const char *region, const struct entry *before, bool seen, struct entry *ret)
{
	struct entry e;
	int r = entry_copy(&e, before);

	if (r)
		return r;
	free(e.target);
	e.target = NULL;
	e.kind = KIND_ABSENT;
	e.size = 0;
	memset(e.hash, 0, sizeof(e.hash));
	e.link = (struct link_id){0};
	e.content_stamp = (struct stamp){
		.time = before->content_stamp.time + 1, .node = foreign_removal_node(region)};
	e.content_mtime_ns = (int64_t)hlc_ms(e.content_stamp.time) * 1000000;
	if (seen)
		vector_raise(&e.vector, before->content_stamp);
	else
		forget(&e.vector, before->content_stamp);
	vector_raise(&e.vector, e.content_stamp);
	*ret = e;
	return 0;
}

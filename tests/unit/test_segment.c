/* Segments: what is written is read back; everything else is refused with a text, whatever the
 * bytes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/segment.h"
#include "src/base/random.h"

#define AT_VERSION 7
#define AT_FLAGS 8
#define AT_RECORDS 12
#define AT_RAW_LEN 40
#define AT_PACKED_LEN 48
#define AT_PREVIOUS 56
#define AT_SUM 120
#define HEADER_SIZE 152

static const struct segment_id id = {.ms = 0x19a0b1c2d3e4, .node = 0xfedcba9876543210, .seq = 42};
static char name[SEGMENT_NAME_SIZE];

static struct stamp random_stamp(void)
{
	return (struct stamp){1 + random_below(1u << 20), 1 + random_below(9)};
}

static void random_xattrs(struct buf *b)
{
	unsigned n = (unsigned)random_below(4);

	if (!n)
		return;
	buf_put_varint(b, n);
	for (unsigned i = 0; i < n; i++) {
		char xattr[32];
		size_t len = (size_t)snprintf(xattr, sizeof(xattr), "user.%c%u", 'a' + (int)i,
			(unsigned)random_below(10));

		buf_put_bytes(b, xattr, len);
		buf_put_bytes(b, "value\0", random_below(7));
	}
}

static void random_entry(struct entry *e)
{
	*e = (struct entry){.kind = (enum kind)random_below(4)};
	if (e->kind == KIND_FILE) {
		e->size = random_below(2) ? random_below(100) : random_below(UINT64_C(1) << 62);
		random_bytes(e->hash, sizeof(e->hash));
	}
	if (e->kind == KIND_SYMLINK)
		e->target = strdup("../somewhere/else");
	if ((e->kind == KIND_FILE || e->kind == KIND_SYMLINK) && random_below(2))
		e->link = (struct link_id){1 + random_below(UINT64_MAX), random_u64()};
	e->content_mtime_ns = (int64_t)random_u64();
	e->content_stamp = random_stamp();
	e->mode = (uint32_t)random_below(010000);
	e->uid = (uint32_t)random_below(UINT32_MAX);
	e->gid = (uint32_t)random_below(UINT32_MAX);
	random_xattrs(&e->xattrs);
	e->attr_stamp = random_stamp();
	if (random_below(2)) {
		e->mtime_ns = (int64_t)random_u64();
		e->mtime_stamp = random_stamp();
	}
	for (unsigned i = (unsigned)random_below(20); i; i--)
		vector_raise(&e->vector, (struct stamp){1 + random_below(1000), random_below(30)});
}

/* A file "a/b" with the given inline content, which stays borrowed. */
static void make_file(struct record *r, const char *content)
{
	*r = (struct record){0};
	assert_true(key_set(&r->key, slice_of("a/b")));
	r->entry.kind = KIND_FILE;
	r->entry.size = strlen(content);
	sha256(content, strlen(content), r->entry.hash);
	r->entry.content_stamp = (struct stamp){5 << 16, 1};
	r->entry.attr_stamp = (struct stamp){6 << 16, 1};
	r->entry.mode = 0644;
	vector_raise(&r->entry.vector, r->entry.attr_stamp);
	r->has_content = true;
	r->content = (const uint8_t *)content;
}

static void assert_same(const struct record *a, const struct record *b)
{
	CLEANUP(buf_done) struct buf x = {0}, y = {0};

	record_encode(a, &x);
	record_encode(b, &y);
	assert_int_equal(x.len, y.len);
	assert_memory_equal(x.data, y.data, x.len);
	assert_true(slice_equal(key_slice(&a->key), key_slice(&b->key)));
	assert_true(entry_content_equal(&a->entry, &b->entry));
	assert_true(link_id_equal(a->entry.link, b->entry.link));
	assert_true(entry_attr_equal(&a->entry, &b->entry));
	assert_int_equal(entry_mtime(&a->entry), entry_mtime(&b->entry));
	assert_int_equal(stamp_cmp(entry_stamp(&a->entry), entry_stamp(&b->entry)), 0);
	assert_int_equal(a->entry.vector.count, b->entry.vector.count);
	assert_memory_equal(a->entry.vector.item, b->entry.vector.item,
		a->entry.vector.count * sizeof(struct stamp));
	assert_int_equal(a->has_content, b->has_content);
}

static void records_round_trip(void **state)
{
	for (unsigned i = 0; i < 5000; i++) {
		CLEANUP(buf_done) struct buf b = {0};
		struct record r = {0}, back;
		struct err err = {0};

		random_entry(&r.entry);
		assert_true(key_set(&r.key, slice_of("dir/some file")));
		if (random_below(2))
			assert_true(key_set(&r.moved_from, slice_of("old")));
		record_encode(&r, &b);
		assert_false(b.failed);
		if (record_decode(b.data, b.len, &back, &err))
			fail_msg("%s", err.text);
		assert_same(&r, &back);
		record_done(&back);
		/* Fields of a later version at the end are skipped. */
		buf_put_str(&b, "new field");
		assert_int_equal(record_decode(b.data, b.len, &back, &err), 0);
		record_done(&back);
		record_done(&r);
	}
}

static void refuse_record(const struct record *r, const char *why)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct record back;
	struct err err = {0};

	record_encode(r, &b);
	if (record_decode(b.data, b.len, &back, &err) != -EBADMSG)
		fail_msg("accepted, though: %s", why);
	if (!strstr(err.text, why))
		fail_msg("\"%s\" does not say \"%s\"", err.text, why);
}

static void hostile_records(void **state)
{
	static const char *const keys[] = {
		"../x", "a//b", "/a", "a/", ".meridian/x", "a/../b", "."};
	char long_name[2049];
	struct record r;

	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		make_file(&r, "x");
		assert_true(key_set(&r.key, slice_of(keys[i])));
		refuse_record(&r, "cannot be a path");
		make_file(&r, "x");
		assert_true(key_set(&r.moved_from, slice_of(keys[i])));
		refuse_record(&r, "cannot be a path");
	}
	make_file(&r, "x");
	memset(long_name, 'n', sizeof(long_name));
	long_name[256] = '\0';
	assert_true(key_set(&r.key, slice_of(long_name)));
	refuse_record(&r, "cannot be a path");
	make_file(&r, "x");
	r.key.len = 0;
	refuse_record(&r, "the root is a directory");
	make_file(&r, "content");
	r.entry.hash[0] ^= 1;
	refuse_record(&r, "match its hash");
	make_file(&r, "x");
	r.entry.mode = 010000;
	refuse_record(&r, "mode or owner");
	make_file(&r, "x");
	r.entry.uid = UINT32_MAX;
	refuse_record(&r, "mode or owner");
	make_file(&r, "x");
	r.entry.content_stamp.time = 0;
	refuse_record(&r, "no content stamp");
	make_file(&r, "x");
	r.entry.attr_stamp.time = 0;
	refuse_record(&r, "no attribute stamp");
	make_file(&r, "x");
	r.has_content = false;
	r.entry.size = UINT64_MAX;
	refuse_record(&r, "impossible size");
	make_file(&r, "x");
	r.has_content = false;
	r.entry.kind = KIND_DIR;
	r.entry.link.origin = 1;
	refuse_record(&r, "impossible link id");
	make_file(&r, "x");
	r.entry.kind = (enum kind)9;
	refuse_record(&r, "unknown kind");
}

static void refuse_xattrs(const void *p, size_t n)
{
	struct record r;

	make_file(&r, "x");
	buf_put(&r.entry.xattrs, p, n);
	refuse_record(&r, "extended attributes");
	buf_done(&r.entry.xattrs);
}

static void hostile_xattrs(void **state)
{
	refuse_xattrs("\1", 1);		   /* cut short */
	refuse_xattrs("\2\1b\0\1a\0", 7);  /* out of order */
	refuse_xattrs("\2\1a\0\1a\0", 7);  /* twice */
	refuse_xattrs("\2\2ab\0\1a\0", 8); /* a prefix after the longer one */
	refuse_xattrs("\1\0\0", 3);	   /* no name */
	refuse_xattrs("\1\1a\0x", 5);	   /* more than it says */
	refuse_xattrs("\1\3a\0b\0", 6);	   /* NUL in a name */
	refuse_xattrs("\0x", 2);
	refuse_xattrs("\1\x17system.posix_acl_access\4\2\0\0\0", 30); /* an empty ACL */
	refuse_xattrs("\1\x18system.posix_acl_default\2\2\0", 29);
}

static void truncated_records(void **state)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct record r, back;
	struct err err = {0};

	make_file(&r, "some content");
	record_encode(&r, &b);
	for (size_t n = 0; n < b.len; n++) {
		/* A copy of its own, so that the sanitizer sees any read past the end. */
		uint8_t *p = malloc(n + 1);

		memcpy(p, b.data, n);
		assert_int_equal(record_decode(p, n, &back, &err), -EBADMSG);
		free(p);
	}
	assert_int_equal(record_decode(b.data, b.len, &back, &err), 0);
	assert_memory_equal(back.content, "some content", 12);
	record_done(&back);
}

static void names(void **state)
{
	static const char *const wrong[] = {"", "x",
		"19a0b1c2d3e4-fedcba9876543210-000000000000002",
		"19a0b1c2d3e4-fedcba9876543210-000000000000002a0",
		"19A0b1c2d3e4-fedcba9876543210-000000000000002a",
		"19a0b1c2d3e4_fedcba9876543210-000000000000002a",
		"19a0b1c2d3e4-fedcba987654321g-000000000000002a",
		"19a0b1c2d3e4-fedcba9876543210-+00000000000002a"};
	struct segment_id back;

	segment_name(&id, name);
	assert_string_equal(name, "19a0b1c2d3e4-fedcba9876543210-000000000000002a");
	assert_true(segment_name_parse(name, &back));
	assert_int_equal(back.ms, id.ms);
	assert_int_equal(back.node, id.node);
	assert_int_equal(back.seq, id.seq);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		if (segment_name_parse(wrong[i], &back))
			fail_msg("accepted: %s", wrong[i]);
	}
}

static const char previous[] = "19a0b1c2d3e3-fedcba9876543210-0000000000000029";

static void make_segment(struct buf *out, unsigned records, bool continues)
{
	struct segment_writer w = {0};

	for (unsigned i = 0; i < records; i++) {
		struct record r;
		char content[40], path[20];

		snprintf(content, sizeof(content), "content of file %u", i);
		snprintf(path, sizeof(path), "dir/%06u", i);
		make_file(&r, content);
		assert_true(key_set(&r.key, slice_of(path)));
		segment_add(&w, &r);
	}
	assert_int_equal(segment_finish(&w, &id, previous, continues, out), 0);
	segment_writer_done(&w);
}

static int expect_next(void *ctx, const struct record *r, const struct err *err)
{
	unsigned *i = ctx;
	char path[20], content[40];

	snprintf(content, sizeof(content), "content of file %u", *i);
	snprintf(path, sizeof(path), "dir/%06u", (*i)++);
	assert_non_null(r);
	assert_null(err);
	assert_string_equal(r->key.p, path);
	assert_int_equal(r->entry.size, strlen(content));
	assert_memory_equal(r->content, content, strlen(content));
	return *i == 90 ? -ECANCELED : 0;
}

static void segments_round_trip(void **state)
{
	static const unsigned counts[] = {0, 1, 7, 80};

	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		CLEANUP(buf_done) struct buf out = {0};
		unsigned seen = 0;
		struct segment s;
		struct err err = {0};

		make_segment(&out, counts[i], i & 1);
		if (segment_parse(name, out.data, out.len, &s, &err))
			fail_msg("%s", err.text);
		assert_int_equal(s.records, counts[i]);
		assert_int_equal(s.continues, i & 1);
		assert_string_equal(s.previous, previous);
		assert_int_equal(s.id.node, id.node);
		assert_int_equal(s.id.seq, id.seq);
		assert_int_equal(segment_each(&s, expect_next, &seen), 0);
		assert_int_equal(seen, counts[i]);
		segment_done(&s);
	}
}

static void each_ends_early(void **state)
{
	CLEANUP(buf_done) struct buf out = {0};
	unsigned seen = 0;
	struct segment s;
	struct err err = {0};

	make_segment(&out, 200, false);
	assert_int_equal(segment_parse(name, out.data, out.len, &s, &err), 0);
	assert_int_equal(segment_each(&s, expect_next, &seen), -ECANCELED);
	assert_int_equal(seen, 90);
	segment_done(&s);
}

static void refuse(const void *p, size_t n, int code)
{
	struct segment s;
	struct err err = {0};
	uint8_t *copy = malloc(n + 1);
	int r;

	memcpy(copy, p, n);
	r = segment_parse(name, copy, n, &s, &err);
	free(copy);
	assert_int_equal(r, code);
	assert_true(strlen(err.text) > 0);
}

static void every_truncation_and_bit(void **state)
{
	CLEANUP(buf_done) struct buf out = {0};

	make_segment(&out, 3, false);
	for (size_t n = 0; n < out.len; n++)
		refuse(out.data, n, -EBADMSG);
	for (size_t i = 0; i < 8 * out.len; i++) {
		out.data[i / 8] ^= (uint8_t)(1 << i % 8);
		refuse(out.data, out.len, -EBADMSG);
		out.data[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	buf_put_u8(&out, 0);
	refuse(out.data, out.len, -EBADMSG);
}

/* A checksum over whatever the header says now: what a malicious writer would send. */
static void mend(struct buf *b)
{
	struct sha256 h;

	sha256_init(&h);
	sha256_update(&h, b->data, AT_SUM);
	sha256_update(&h, b->data + HEADER_SIZE, b->len - HEADER_SIZE);
	sha256_final(&h, b->data + AT_SUM);
}

static void refuse_mended(size_t at, const char *bytes, size_t n, int code)
{
	CLEANUP(buf_done) struct buf out = {0};

	make_segment(&out, 3, false);
	memcpy(out.data + at, bytes, n);
	mend(&out);
	refuse(out.data, out.len, code);
}

static void hostile_headers(void **state)
{
	CLEANUP(buf_done) struct buf out = {0};
	struct segment s;
	struct err err = {0};

	refuse_mended(AT_VERSION, "\2", 1, -EPROTONOSUPPORT);
	refuse_mended(AT_VERSION, "\0", 1, -EBADMSG);
	refuse_mended(AT_FLAGS, "\0\0\0\2", 4, -EPROTONOSUPPORT);
	refuse_mended(AT_RECORDS, "\0\0\0\4", 4, -EBADMSG);
	refuse_mended(AT_RECORDS, "\0\0\0\2", 4, -EBADMSG);
	refuse_mended(AT_RECORDS, "\xff\xff\xff\xff", 4, -EBADMSG);
	refuse_mended(16, "\0", 1, -EBADMSG); /* another node */
	refuse_mended(31, "\0", 1, -EBADMSG); /* another seq */
	refuse_mended(AT_RAW_LEN, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, -EBADMSG);
	refuse_mended(AT_RAW_LEN, "\0\0\0\0\4\0\0\0", 8, -EBADMSG); /* 64 MiB of a few bytes */
	refuse_mended(AT_RAW_LEN, "\0\0\0\0\0\0\0\1", 8, -EBADMSG);
	refuse_mended(AT_PACKED_LEN, "\0\0\0\0\0\0\0\1", 8, -EBADMSG);
	refuse_mended(AT_PREVIOUS, "../../x", 8, -EBADMSG);
	refuse_mended(HEADER_SIZE, "\0\0\0\0", 4, -EBADMSG); /* not zlib */
	/* Flags in the upper half may be ignored. */
	make_segment(&out, 1, false);
	out.data[AT_FLAGS] = 0x80;
	mend(&out);
	assert_int_equal(segment_parse(name, out.data, out.len, &s, &err), 0);
	segment_done(&s);
	assert_int_equal(segment_parse("another", out.data, out.len, &s, &err), -EBADMSG);
	assert_int_equal(segment_parse("19a0b1c2d3e5-fedcba9876543210-000000000000002a", out.data,
				 out.len, &s, &err),
		-EBADMSG);
}

struct tally {
	unsigned good;
	unsigned bad;
};

static int count(void *ctx, const struct record *r, const struct err *err)
{
	struct tally *t = ctx;

	t->good += r != NULL;
	t->bad += r == NULL;
	if (!r)
		assert_non_null(strstr(err->text, "\"../x\""));
	return 0;
}

static void bad_records_among_good(void **state)
{
	CLEANUP(buf_done) struct buf out = {0};
	struct segment_writer w = {0};
	struct tally tally = {0};
	struct segment s;
	struct err err = {0};

	for (unsigned i = 0; i < 10; i++) {
		struct record r;

		make_file(&r, "x");
		if (i % 3 == 0)
			assert_true(key_set(&r.key, slice_of("../x")));
		segment_add(&w, &r);
	}
	assert_int_equal(segment_finish(&w, &id, "", false, &out), 0);
	segment_writer_done(&w);
	assert_int_equal(segment_parse(name, out.data, out.len, &s, &err), 0);
	assert_int_equal(segment_each(&s, count, &tally), 0);
	assert_int_equal(tally.good, 6);
	assert_int_equal(tally.bad, 4);
	segment_done(&s);
}

static void too_much_for_one(void **state)
{
	CLEANUP(buf_done) struct buf out = {0};
	size_t n = 20u << 20;
	char *content = malloc(n + 1);
	struct segment_writer w = {0};
	struct record r;

	memset(content, 'c', n);
	content[n] = '\0';
	make_file(&r, content);
	for (unsigned i = 0; i < 4; i++)
		segment_add(&w, &r);
	assert_int_equal(segment_finish(&w, &id, "", false, &out), -E2BIG);
	segment_writer_done(&w);
	free(content);
}

/* A segment of one file of n bytes, of which the last `noise` are random: its length. */
static size_t segment_length(size_t n, size_t noise)
{
	CLEANUP(buf_done) struct buf out = {0};
	struct segment_writer w = {0};
	struct record r, back;
	struct segment s;
	struct err err = {0};
	char *content = malloc(n + 1);

	for (size_t i = 0; i < n; i++)
		content[i] = i < n - noise ? 'a' + (char)(i % 13) : 1 + (char)random_below(127);
	content[n] = '\0';
	make_file(&r, content);
	for (size_t i = n - noise; i < n; i++)
		content[i] = (char)random_u64();
	sha256(content, n, r.entry.hash);
	segment_add(&w, &r);
	assert_int_equal(segment_finish(&w, &id, "", false, &out), 0);
	assert_int_equal(segment_parse(name, out.data, out.len, &s, &err), 0);
	struct reader reader = reader_of(s.raw.data, s.raw.len);
	size_t len;
	const uint8_t *p = reader_bytes(&reader, s.raw.len, &len);
	assert_int_equal(record_decode(p, len, &back, &err), 0);
	assert_memory_equal(back.content, content, n);
	record_done(&back);
	segment_done(&s);
	segment_writer_done(&w);
	free(content);
	return out.len;
}

/* Of 2 MiB of random bytes stored blocks make 171 more, deflate at level 1 646; the header and the
 * record's other fields are under 400. */
static void what_does_not_shrink_is_stored(void **state)
{
	const size_t n = 2u << 20;
	size_t stored = segment_length(n, n);

	assert_in_range(stored, n, n + 700);
	assert_in_range(segment_length(n, 0), 0, n / 20);
	assert_in_range(segment_length(n, n / 2), n / 2, n / 2 + n / 20);
	assert_in_range(segment_length(4096, 0), 0, 600);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(records_round_trip),
		cmocka_unit_test(hostile_records),
		cmocka_unit_test(hostile_xattrs),
		cmocka_unit_test(truncated_records),
		cmocka_unit_test(segments_round_trip),
		cmocka_unit_test(each_ends_early),
		cmocka_unit_test(every_truncation_and_bit),
		cmocka_unit_test(hostile_headers),
		cmocka_unit_test(bad_records_among_good),
		cmocka_unit_test(too_much_for_one),
		cmocka_unit_test(what_does_not_shrink_is_stored),
	};

	random_seed_deterministic(11);
	segment_name(&id, name);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

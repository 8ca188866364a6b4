/*
 * Why this file: with FUSE_POSIX_ACL the kernel checks access by lists and leaves to the file
 * system what keeps lists and permission bits in step. The rules are those of fs/posix_acl.c in
 * Linux, so that a program sees here what it sees on a local disk.
 */
#include "cache/acl.h"

#include <errno.h>

#define VERSION 2
#define HEADER 4
#define ENTRY 8
#define NO_ID UINT32_MAX

static uint32_t le(const uint8_t *p, unsigned n)
{
	uint32_t v = 0;

	while (n-- > 0)
		v = v << 8 | p[n];
	return v;
}

static void put_le(uint8_t *p, uint32_t v, unsigned n)
{
	for (unsigned i = 0; i < n; i++, v >>= 8)
		p[i] = (uint8_t)v;
}

bool acl_is_name(struct slice name)
{
	return slice_equal(name, slice_of(ACL_ACCESS)) || slice_equal(name, slice_of(ACL_DEFAULT));
}

/* The tags that may follow one: they come in the order of their numbers; users and groups repeat.
 */
static bool follows(unsigned last, unsigned tag, bool named)
{
	switch (tag) {
	case ACL_TAG_USER_OBJ:
		return last == 0;
	case ACL_TAG_USER:
		return last == ACL_TAG_USER_OBJ || last == ACL_TAG_USER;
	case ACL_TAG_GROUP_OBJ:
		return last == ACL_TAG_USER_OBJ || last == ACL_TAG_USER;
	case ACL_TAG_GROUP:
		return last == ACL_TAG_GROUP_OBJ || last == ACL_TAG_GROUP;
	case ACL_TAG_MASK:
		return last == ACL_TAG_GROUP_OBJ || last == ACL_TAG_GROUP;
	case ACL_TAG_OTHER:
		return last == ACL_TAG_MASK ||
		       (!named && (last == ACL_TAG_GROUP_OBJ || last == ACL_TAG_GROUP));
	default:
		return false;
	}
}

static int check(const struct acl *acl)
{
	unsigned last = 0;
	bool named = false;

	for (unsigned i = 0; i < acl->count; i++) {
		const struct acl_entry *e = &acl->entry[i];
		bool has_id = e->tag == ACL_TAG_USER || e->tag == ACL_TAG_GROUP;

		named |= has_id;
		if (!follows(last, e->tag, named) || e->perm & ~7u || (has_id && e->id == NO_ID))
			return -EINVAL;
		last = e->tag;
	}
	return last == ACL_TAG_OTHER || acl->count == 0 ? 0 : -EINVAL;
}

int acl_parse(struct slice value, struct acl *ret)
{
	const uint8_t *p = (const uint8_t *)value.p;
	size_t n;

	if (value.len < HEADER || (value.len - HEADER) % ENTRY || le(p, 4) != VERSION)
		return -EINVAL;
	n = (value.len - HEADER) / ENTRY;
	if (n > ACL_ENTRIES_MAX)
		return -E2BIG;
	ret->count = (unsigned)n;
	p += HEADER;
	for (size_t i = 0; i < n; i++, p += ENTRY)
		ret->entry[i] = (struct acl_entry){.tag = (uint16_t)le(p, 2),
			.perm = (uint16_t)le(p + 2, 2),
			.id = le(p + 4, 4)};
	return check(ret);
}

size_t acl_serialise(const struct acl *acl, uint8_t ret[ACL_BYTES_MAX])
{
	uint8_t *p = ret + HEADER;

	put_le(ret, VERSION, 4);
	for (unsigned i = 0; i < acl->count; i++, p += ENTRY) {
		const struct acl_entry *e = &acl->entry[i];
		bool has_id = e->tag == ACL_TAG_USER || e->tag == ACL_TAG_GROUP;

		put_le(p, e->tag, 2);
		put_le(p + 2, e->perm, 2);
		put_le(p + 4, has_id ? e->id : NO_ID, 4);
	}
	return (size_t)(p - ret);
}

bool acl_attribute_valid(struct slice name, struct slice value)
{
	struct acl acl;

	return !acl_is_name(name) || (acl_parse(value, &acl) == 0 && acl.count > 0);
}

static struct acl_entry *find(struct acl *acl, unsigned tag)
{
	for (unsigned i = 0; i < acl->count; i++)
		if (acl->entry[i].tag == tag)
			return &acl->entry[i];
	return NULL;
}

bool acl_equiv_mode(const struct acl *acl, uint32_t *mode)
{
	uint32_t bits = 0, mask = 7;
	bool equivalent = true, masked = false;

	for (unsigned i = 0; i < acl->count; i++) {
		const struct acl_entry *e = &acl->entry[i];

		switch (e->tag) {
		case ACL_TAG_USER_OBJ:
			bits |= (uint32_t)e->perm << 6;
			break;
		case ACL_TAG_GROUP_OBJ:
			bits |= (uint32_t)e->perm << 3;
			break;
		case ACL_TAG_OTHER:
			bits |= e->perm;
			break;
		case ACL_TAG_MASK:
			mask = e->perm;
			masked = true;
			equivalent = false;
			break;
		default:
			equivalent = false;
			break;
		}
	}
	/* With a mask the group's bits show it, not the group's own entry. */
	if (masked)
		bits = (bits & ~070u) | mask << 3;
	*mode = (*mode & ~0777u) | bits;
	return equivalent;
}

/* The entry that chmod and the mode's group bits speak of. */
static struct acl_entry *group_class(struct acl *acl)
{
	struct acl_entry *mask = find(acl, ACL_TAG_MASK);

	return mask ? mask : find(acl, ACL_TAG_GROUP_OBJ);
}

bool acl_create_masq(struct acl *acl, uint32_t *mode)
{
	struct acl_entry *entry[3] = {
		find(acl, ACL_TAG_USER_OBJ), group_class(acl), find(acl, ACL_TAG_OTHER)};
	uint32_t bits = 0;

	for (unsigned i = 0; i < 3; i++) {
		unsigned shift = 6 - 3 * i;

		if (!entry[i])
			continue;
		entry[i]->perm &= (uint16_t)(*mode >> shift & 7);
		bits |= (uint32_t)entry[i]->perm << shift;
	}
	*mode = (*mode & ~0777u) | bits;
	return !acl_equiv_mode(acl, &bits);
}

void acl_chmod_masq(struct acl *acl, uint32_t mode)
{
	struct acl_entry *entry[3] = {
		find(acl, ACL_TAG_USER_OBJ), group_class(acl), find(acl, ACL_TAG_OTHER)};

	for (unsigned i = 0; i < 3; i++)
		if (entry[i])
			entry[i]->perm = (uint16_t)(mode >> (6 - 3 * i) & 7);
}

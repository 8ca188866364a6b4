/*
 * POSIX access control lists, as Linux keeps them (POSIX 1003.1e draft 17): the rules by which a
 * local file system relates them to permission bits. Pure functions; nothing is stored here.
 *
 * A list is kept and replicated as the value of the extended attribute system.posix_acl_access or
 * system.posix_acl_default in the kernel's format (linux/posix_acl_xattr.h): le32 version 2, then
 * for each entry le16 tag, le16 permissions, le32 id. A list that says no more than the permission
 * bits do is not kept.
 */
#ifndef CACHE_ACL_H
#define CACHE_ACL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "src/base/attribute.h"

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
/* What fits into the 4,096 bytes that the kernel reads from a FUSE file system. */
#define ACL_ENTRIES_MAX 511
#define ACL_BYTES_MAX (4 + 8 * ACL_ENTRIES_MAX)

enum acl_tag {
	ACL_TAG_USER_OBJ = 1,
	ACL_TAG_USER = 2,
	ACL_TAG_GROUP_OBJ = 4,
	ACL_TAG_GROUP = 8,
	ACL_TAG_MASK = 16,
	ACL_TAG_OTHER = 32,
};

struct acl_entry {
	uint16_t tag;
	uint16_t perm; /* rwx as 4, 2, 1 */
	uint32_t id;   /* of USER and GROUP */
};

struct acl {
	unsigned count; /* 0: a header only, by which Linux removes a list */
	struct acl_entry entry[ACL_ENTRIES_MAX];
};

/* True for the two names above. */
bool acl_is_name(struct slice name);
/* -EINVAL for what is not a list in the order that Linux demands (owner, users, group, groups,
 * mask, others; a mask where there are users or groups), -E2BIG for more than ACL_ENTRIES_MAX. */
int acl_parse(struct slice value, struct acl *ret) MUST_CHECK;
/* Returns the length. */
size_t acl_serialise(const struct acl *acl, uint8_t ret[ACL_BYTES_MAX]);
/* False for a list that is malformed or empty; true for other attributes. For what comes from a
 * bucket. */
bool acl_attribute_valid(struct slice name, struct slice value);

/* Puts the permission bits that go with an access list into *mode. True when they say all of it. */
bool acl_equiv_mode(const struct acl *acl, uint32_t *mode) MUST_CHECK;
/* Makes a directory's default list the access list of something new that is made with *mode, which
 * becomes the mode that it gets. False when that mode says all of it. */
bool acl_create_masq(struct acl *acl, uint32_t *mode) MUST_CHECK;
/* What chmod makes of an access list. */
void acl_chmod_masq(struct acl *acl, uint32_t mode);

#endif

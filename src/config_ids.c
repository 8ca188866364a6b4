/* Why this file: servers that number their users differently see the same owners. The map must not
 * show two owners as one, or what a server writes back would belong to somebody else; so whatever
 * pairs are given, the map that comes out is a permutation. */
#include "src/config_ids.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>

#define NO_ID UINT32_MAX /* chown(2): leave it as it is */
#define PAIRS_MAX (FS_ID_PAIRS_MAX / 2)

/* Decimal, all of it. */
static bool parse_number(const char *s, uint32_t *ret)
{
	uint64_t value = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return false;
		value = value * 10 + (uint64_t)(*s - '0');
		if (value >= NO_ID)
			return false;
	}
	*ret = (uint32_t)value;
	return true;
}

int config_ids_id(const char *text, bool group, uint32_t *ret, struct err *err)
{
	const char *kind = group ? "group" : "user";
	struct passwd *user;
	struct group *g;

	if (parse_number(text, ret))
		return 0;
	if (!*text || strspn(text, "0123456789") == strlen(text))
		return err_set(err, -EINVAL, "\"%s\" is not a %s's number", text, kind);
	errno = 0;
	if (group) {
		g = getgrnam(text);
		if (g) {
			*ret = g->gr_gid;
			return 0;
		}
	} else {
		user = getpwnam(text);
		if (user) {
			*ret = user->pw_uid;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "there is no %s \"%s\" on this server", kind, text);
}

static int add_pair(char *word, bool groups, struct fs_id_map *map, struct err *err)
{
	char *colon = strchr(word, ':');
	uint32_t shown, kept;
	int r;

	if (!colon)
		return err_set(err, -EINVAL,
			"\"%s\" is not a pair\nhint: write LOCAL:VOLUME, for example alice:2001",
			word);
	*colon = '\0';
	if (!parse_number(colon + 1, &kept))
		return err_set(err, -EINVAL,
			"\"%s\" is not a number\nhint: the volume's ids, after the colon, have no "
			"names",
			colon + 1);
	r = config_ids_id(word, groups, &shown, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < map->count; i++) {
		if (map->pair[i].shown == shown)
			return err_set(err, -EINVAL, "%s is there twice before a colon", word);
		if (map->pair[i].kept == kept)
			return err_set(err, -EINVAL, "%u is there twice after a colon", kept);
	}
	if (map->count == PAIRS_MAX)
		return err_set(err, -EINVAL, "more than %d pairs", PAIRS_MAX);
	map->pair[map->count].shown = shown;
	map->pair[map->count++].kept = kept;
	return 0;
}

/* The pair whose shown (or kept) id it is; -1: none. */
static int find(const struct fs_id_map *map, bool shown, uint32_t id)
{
	for (unsigned i = 0; i < map->count; i++)
		if ((shown ? map->pair[i].shown : map->pair[i].kept) == id)
			return (int)i;
	return -1;
}

static void complete(struct fs_id_map *map)
{
	unsigned given = map->count;

	for (unsigned i = 0; i < given; i++) {
		uint32_t end = map->pair[i].kept, start = map->pair[i].shown;
		int before;

		if (find(map, true, end) >= 0)
			continue;
		while ((before = find(map, false, start)) >= 0)
			start = map->pair[before].shown;
		map->pair[map->count].shown = end;
		map->pair[map->count++].kept = start;
	}
}

int config_ids_map(const char *text, bool groups, struct fs_id_map *ret, struct err *err)
{
	char *copy AUTO_FREE = strdup(text), *rest = NULL;
	struct fs_id_map map = {0};

	if (!copy)
		return err_errno(err, -ENOMEM, "%s", text);
	for (char *word = strtok_r(copy, ", \t", &rest); word;
		word = strtok_r(NULL, ", \t", &rest)) {
		int r = add_pair(word, groups, &map, err);

		if (r < 0)
			return r;
	}
	complete(&map);
	*ret = map;
	return 0;
}

int config_ids_umask(const char *text, uint32_t *ret, struct err *err)
{
	uint32_t value = 0;

	for (const char *p = text; *p; p++) {
		value = value * 8 + (uint32_t)(*p - '0');
		if (*p < '0' || *p > '7' || value > 0777)
			value = NO_ID;
		if (value == NO_ID)
			break;
	}
	if (!*text || value == NO_ID)
		return err_set(
			err, -EINVAL, "not octal permission bits\nhint: write for example 022");
	*ret = value;
	return 0;
}

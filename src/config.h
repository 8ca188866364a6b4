/*
 * A volume's configuration: design §10, meridian.conf(5). One INI file of at most 1 MiB; everything
 * in it is checked here, so that the rest of the program may trust struct config.
 */
#ifndef SRC_CONFIG_H
#define SRC_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/durability.h"
#include "fs/fs.h"
#include "replicator/store/store.h"
#include "src/base/attribute.h"
#include "src/base/buf.h"
#include "src/base/err.h"
#include "src/option.h"

#define CONFIG_BYTES_MAX (1024 * 1024)
#define CONFIG_REGION_MAX 8
#define CONFIG_POLICY_MAX 64
#define CONFIG_OPTION_MAX 64 /* options of a section */
#define CONFIG_DIRECTORY "/etc/meridian"
#define CONFIG_STATE_DIRECTORY "/var/lib/meridian"

/* Where each option of a section was set: line number by index in the table; 0: the default;
 * CONFIG_LINE_MOUNT: by the mount. */
#define CONFIG_LINE_MOUNT 0xffffffffu
struct config_lines {
	unsigned section; /* of the section's head */
	unsigned of[CONFIG_OPTION_MAX];
};

struct config_region {
	struct config_lines lines;
	char *name;
	char *url;
	char *endpoint;
	char *region;
	char *profile;
	char *credentials_file;
	char *ca_bundle;
	bool path_style;
	uint64_t connections;
	struct schedule rate_limit;
	struct schedule request_limit;
	bool optional;
	uint64_t resync_backlog;
	int64_t resync_age_ms;
	int64_t timeout_ms;
	int64_t stall_timeout_ms;
};

struct config_policy {
	struct config_lines lines;
	char *glob;
	unsigned merge;
	unsigned durability;	/* 0: the volume's; else enum durability + 1 */
	unsigned sync_on_close; /* 0: the volume's, 1: no, 2: yes */
};

struct config {
	char *path; /* of the file, for messages */
	struct config_lines lines;
	char *name;
	char *state_dir;
	char *home;
	uint64_t cache_size; /* 0: no limit */
	struct option_share min_free;
	uint64_t reserve_size;
	uint64_t max_dirty;   /* 0: no limit, as the next */
	uint64_t max_backlog;
	unsigned durability; /* enum durability */
	int64_t durability_timeout_ms;
	bool sync_on_close;
	unsigned push; /* 0: direct, 1: copy */
	int64_t poll_interval_ms;
	int64_t seal_after_ms;
	int64_t segment_delay_ms;
	uint64_t inline_max;
	uint64_t lazy_min;
	unsigned refresh; /* enum refresh_mode */
	int64_t max_clock_skew_ms;
	int64_t reconcile_interval_ms;
	int64_t reconcile_grace_ms;
	struct option_share max_delete;
	int64_t drain_timeout_ms;
	uint64_t object_threads;
	uint64_t segment_days;
	uint64_t trash_days;
	int64_t checkpoint_interval_ms;
	int64_t first_sync_ms;
	int64_t gone_after_ms;
	unsigned log_level; /* enum log_level */
	char *log_file;
	bool allow_other;
	unsigned passthrough; /* 0: auto, 1: off */
	char *map_uid;
	char *map_gid;
	char *uid;
	char *gid;
	char *umask;

	struct fs_ids ids; /* of the five above */
	unsigned home_index;
	unsigned regions;
	struct config_region region[CONFIG_REGION_MAX];
	unsigned policies;
	struct config_policy policy[CONFIG_POLICY_MAX];
};

/* "key=value" pairs that replace those of [volume]: the mount's -o list. Borrowed. */
struct config_override {
	const char *name;
	const char *value;
};

/* The tables, for the help, the manual's test and `config show`. */
extern const struct option_spec config_volume_options[];
extern const size_t config_volume_option_count;
extern const struct option_spec config_region_options[];
extern const size_t config_region_option_count;
extern const struct option_spec config_policy_options[];
extern const size_t config_policy_option_count;

/* Parses text as the content of path (used in messages and for the default name). -EINVAL with
 * "file:line: [section] key: cause" and mostly a second line "hint: …". *ret is to be freed. */
int config_parse(const char *text, size_t n, const char *path,
	const struct config_override *overrides, size_t override_count, struct config **ret,
	struct err *err) MUST_CHECK;
/* The same from a file. -ENOENT and others as open(2). */
int config_load(const char *path, const struct config_override *overrides, size_t override_count,
	struct config **ret, struct err *err) MUST_CHECK;
void config_free(struct config *c); /* NULL is fine */
static inline void cleanup_config(struct config **c)
{
	config_free(*c);
}
#define AUTO_CONFIG CLEANUP(cleanup_config)

/* True when source is a file's path (has a '/' or ends in ".conf") and not a volume's name. */
bool config_is_path(const char *source);
/* The file of VOLUME|CONFIG: heap; -EINVAL for what is neither a name nor a path. */
int config_find(const char *source, char **ret, struct err *err) MUST_CHECK;

/* Appends the whole effective configuration as a file that means the same. */
void config_print(const struct config *c, struct buf *out);

/* What [volume] and the policies say about durability, for durability_set; strings borrowed from c. */
void config_durability(const struct config *c, struct durability_wish *volume,
	struct durability_rule rules[CONFIG_POLICY_MAX], unsigned *count);

/* A region's part for the replicator; strings borrowed from c. */
void config_store(const struct config *c, unsigned region, struct store_config *ret);

#endif

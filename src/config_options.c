/*
 * Why this file: each option of the configuration, declared once. What a new option needs is a line
 * here, a field in struct config and an item in docs/meridian.conf.5; a test compares this table
 * with that page.
 */
#include <limits.h>

#include "src/base/log.h"
#include "src/config.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)
#define SECOND 1000ull
#define HOUR (3600 * SECOND)
#define DAY (24 * HOUR)

/* As enum durability; a policy's have one more before them. */
static const char *const policy_durabilities[] = {
	"volume", "local", "home", "quorum", "all", NULL};
static const char *const policy_bools[] = {"volume", "no", "yes", NULL};
static const char *const pushes[] = {"direct", "copy", NULL};
static const char *const passthroughs[] = {"auto", "off", NULL};
static const char *const merges[] = {"lww", NULL};
static const char *const merges_later[] = {"counter", "set", "append", "command", "manual", NULL};
static const char *const log_levels[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARN] = "warn",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
	NULL,
};

#define V(field) offsetof(struct config, field)
const struct option_spec config_volume_options[] = {
	{.name = "name",
		.type = OPTION_NAME,
		.offset = V(name),
		.help = "Name of the volume; default: the file's name without .conf"},
	{.name = "state_dir",
		.type = OPTION_PATH,
		.offset = V(state_dir),
		.help = "Directory of the database and the content; default: "
			"/var/lib/meridian/NAME"},
	{.name = "home",
		.type = OPTION_NAME,
		.offset = V(home),
		.help = "Region to pull and read from first; default: the first in the file"},
	{.name = "cache_size",
		.type = OPTION_SIZE,
		.offset = V(cache_size),
		.preset = "0",
		.min = 0,
		.max = 1024 * TIB,
		.help = "Content kept here; what is over it goes, least recently used first; 0: "
			"all "
			"of it is kept"},
	{.name = "min_free",
		.type = OPTION_SHARE,
		.offset = V(min_free),
		.preset = "0",
		.min = 0,
		.max = 90,
		.help = "Free space, in bytes or percent of the state's file system, for which "
			"content goes as well; 0: none"},
	{.name = "reserve_size",
		.type = OPTION_SIZE,
		.offset = V(reserve_size),
		.preset = "0",
		.min = 0,
		.max = TIB,
		.help = "Free space below which writes get ENOSPC; 0: the smaller of 16M and 5 % "
			"of the disk"},
	{.name = "max_dirty",
		.type = OPTION_SIZE,
		.offset = V(max_dirty),
		.preset = "0",
		.min = 0,
		.max = 1024 * TIB,
		.help = "Content that no region has yet, from 80 % of which writers are slowed and "
			"beyond which they get ENOSPC; 0: no limit"},
	{.name = "max_backlog",
		.type = OPTION_COUNT,
		.offset = V(max_backlog),
		.preset = "0",
		.min = 0,
		.max = 1000000000,
		.help = "The same for the number of changes that wait, each counted for each region "
			"that lacks it; 0: no limit"},
	{.name = "durability",
		.type = OPTION_CHOICE,
		.offset = V(durability),
		.preset = "local",
		.choices = policy_durabilities + 1,
		.help = "Which regions must have a file before fsync returns"},
	{.name = "durability_timeout",
		.type = OPTION_TIME,
		.offset = V(durability_timeout_ms),
		.preset = "30s",
		.min = 10,
		.max = DAY,
		.help = "How long fsync waits for them; then it fails, and what was written stays "
			"journalled"},
	{.name = "sync_on_close",
		.type = OPTION_BOOL,
		.offset = V(sync_on_close),
		.preset = "no",
		.help = "Closing a file that was open for writing does what fsync does"},
	{.name = "push",
		.type = OPTION_CHOICE,
		.offset = V(push),
		.preset = "direct",
		.choices = pushes,
		.help = "Send contents to each region, or to the home region and let the stores of "
			"others copy them from there"},
	{.name = "poll_interval",
		.type = OPTION_TIME,
		.offset = V(poll_interval_ms),
		.preset = "1s",
		.min = 50,
		.max = HOUR,
		.help = "How often the home region is asked for changes of other servers"},
	{.name = "seal_after",
		.type = OPTION_TIME,
		.offset = V(seal_after_ms),
		.preset = "5s",
		.min = 100,
		.max = HOUR,
		.help = "When a file that stays open for writing is replicated as it is"},
	{.name = "segment_delay",
		.type = OPTION_TIME,
		.offset = V(segment_delay_ms),
		.preset = "250ms",
		.min = 1,
		.max = 60 * SECOND,
		.help = "How long changes are gathered before they are sent"},
	{.name = "inline_max",
		.type = OPTION_SIZE,
		.offset = V(inline_max),
		.preset = "64K",
		.min = 1,
		.max = MIB,
		.help = "Files up to this size travel inside the segment"},
	{.name = "lazy_min",
		.type = OPTION_SIZE,
		.offset = V(lazy_min),
		.preset = "8M",
		.min = 0,
		.max = 1024 * TIB,
		.help = "Files from this size on are read block by block as they are needed; 0: "
			"each is fetched whole when it is opened"},
	{.name = "max_clock_skew",
		.type = OPTION_TIME,
		.offset = V(max_clock_skew_ms),
		.preset = "5m",
		.min = SECOND,
		.max = DAY,
		.help = "Changes stamped further in the future are held and reported"},
	{.name = "drain_timeout",
		.type = OPTION_TIME,
		.offset = V(drain_timeout_ms),
		.preset = "25s",
		.min = 0,
		.max = DAY,
		.help = "How long a stop waits for changes to reach every region; the rest stays "
			"in the journal"},
	{.name = "object_threads",
		.type = OPTION_COUNT,
		.offset = V(object_threads),
		.preset = "16",
		.min = 1,
		.max = 256,
		.help = "Objects written at once to a region"},
	{.name = "log_level",
		.type = OPTION_CHOICE,
		.offset = V(log_level),
		.preset = "info",
		.choices = log_levels,
		.help = "Least severity that is logged"},
	{.name = "log_file",
		.type = OPTION_PATH,
		.offset = V(log_file),
		.help = "Log of a daemon in the background; default: syslog"},
	{.name = "allow_other",
		.type = OPTION_BOOL,
		.offset = V(allow_other),
		.preset = "no",
		.help = "Let other users in, as far as modes and owners allow; default: yes when "
			"root mounts, else no"},
	{.name = "map_uid",
		.type = OPTION_STRING,
		.offset = V(map_uid),
		.help = "Users whose number differs from the volume's: LOCAL:VOLUME, …"},
	{.name = "map_gid",
		.type = OPTION_STRING,
		.offset = V(map_gid),
		.help = "The same for groups"},
	{.name = "uid",
		.type = OPTION_STRING,
		.offset = V(uid),
		.help = "Show everything as owned by this user"},
	{.name = "gid",
		.type = OPTION_STRING,
		.offset = V(gid),
		.help = "Show everything as owned by this group"},
	{.name = "umask",
		.type = OPTION_STRING,
		.offset = V(umask),
		.help = "Permission bits that are not shown, in octal"},
	{.name = "passthrough",
		.type = OPTION_CHOICE,
		.offset = V(passthrough),
		.preset = "auto",
		.choices = passthroughs,
		.help = "Let the kernel read and write content files itself where it can, or "
			"never"},
};
const size_t config_volume_option_count = ARRAY_SIZE(config_volume_options);

#define R(field) offsetof(struct config_region, field)
const struct option_spec config_region_options[] = {
	{.name = "url",
		.type = OPTION_URL,
		.offset = R(url),
		.required = true,
		.help = "s3://BUCKET[/PREFIX] or file:///DIRECTORY"},
	{.name = "endpoint",
		.type = OPTION_URL,
		.offset = R(endpoint),
		.help = "http(s)://HOST[:PORT] of an S3-compatible store"},
	{.name = "region",
		.type = OPTION_NAME,
		.offset = R(region),
		.help = "Region to sign requests for; default: the section's name"},
	{.name = "profile",
		.type = OPTION_STRING,
		.offset = R(profile),
		.help = "Section of the credentials file; default: the environment, then "
			"[default]"},
	{.name = "credentials_file",
		.type = OPTION_PATH,
		.offset = R(credentials_file),
		.help = "Default: $AWS_SHARED_CREDENTIALS_FILE, else ~/.aws/credentials"},
	{.name = "ca_bundle",
		.type = OPTION_PATH,
		.offset = R(ca_bundle),
		.help = "PEM file of trusted authorities; default: $AWS_CA_BUNDLE, else the "
			"system's"},
	{.name = "path_style",
		.type = OPTION_BOOL,
		.offset = R(path_style),
		.preset = "no",
		.help = "Bucket in the path of the URL; default: yes with an endpoint, else no"},
	{.name = "connections",
		.type = OPTION_COUNT,
		.offset = R(connections),
		.preset = "16",
		.min = 1,
		.max = 512,
		.help = "Requests under way at once"},
	{.name = "rate_limit",
		.type = OPTION_SIZE,
		.offset = R(rate_limit),
		.preset = "0",
		.min = 0,
		.max = TIB,
		.help = "Bytes a second that contents may take, each way; 0: no limit"},
	{.name = "request_limit",
		.type = OPTION_COUNT,
		.offset = R(request_limit),
		.preset = "0",
		.min = 0,
		.max = 1000000,
		.help = "Requests a second; 0: no limit"},
	{.name = "timeout",
		.type = OPTION_TIME,
		.offset = R(timeout_ms),
		.preset = "1m",
		.min = SECOND,
		.max = HOUR,
		.help = "How long a request may take, repeats included"},
};
const size_t config_region_option_count = ARRAY_SIZE(config_region_options);

#define P(field) offsetof(struct config_policy, field)
const struct option_spec config_policy_options[] = {
	{.name = "merge",
		.type = OPTION_CHOICE,
		.offset = P(merge),
		.preset = "lww",
		.choices = merges,
		.later = merges_later,
		.help = "How concurrent changes of these paths are settled"},
	{.name = "durability",
		.type = OPTION_CHOICE,
		.offset = P(durability),
		.preset = "volume",
		.choices = policy_durabilities,
		.help = "Which regions must have these files before fsync returns"},
	{.name = "sync_on_close",
		.type = OPTION_CHOICE,
		.offset = P(sync_on_close),
		.preset = "volume",
		.choices = policy_bools,
		.help = "Closing one of them does what fsync does"},
};
const size_t config_policy_option_count = ARRAY_SIZE(config_policy_options);

_Static_assert(
	ARRAY_SIZE(config_volume_options) <= CONFIG_OPTION_MAX, "struct config_lines is too small");
_Static_assert(
	ARRAY_SIZE(config_region_options) <= CONFIG_OPTION_MAX, "struct config_lines is too small");

/* Why this file: look at a configuration, or at a state, without mounting anything. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "replicator/replicator.h"
#include "src/base/buf.h"
#include "src/config.h"
#include "src/text.h"
#include "src/verbs.h"

#define CHECK_DEFAULT_MS 20000

static int load(const char *source, struct config **ret)
{
	char *path AUTO_FREE = NULL;
	struct err err = {0};
	int r = config_find(source, &path, &err);

	if (r == 0)
		r = config_load(path, NULL, 0, ret, &err);
	if (r == 0)
		return EXIT_OK;
	return verb_fail(r == -EINVAL ? EXIT_USAGE : verb_exit_code(r), &err);
}

int verb_config_show(const struct verb_arguments *a)
{
	struct config *config AUTO_CONFIG = NULL;
	struct buf out CLEANUP(buf_done) = {0};
	int code = load(a->operand[0], &config);

	if (code != EXIT_OK)
		return code;
	config_print(config, &out);
	fputs(buf_str(&out), stdout);
	return fflush(stdout) == 0 ? EXIT_OK : EXIT_RETRY;
}

int verb_check(const struct verb_arguments *a)
{
	struct config *config AUTO_CONFIG = NULL;
	struct buf report CLEANUP(buf_done) = {0};
	struct err err = {0};
	struct stat st;
	int r, code = load(a->operand[0], &config);

	if (code != EXIT_OK)
		return code;
	/* Opening would make it. */
	if (stat(config->state_dir, &st) != 0) {
		r = err_errno(&err, -errno, "%s", config->state_dir);
		return verb_fail(verb_exit_code(r), &err);
	}
	r = cache_check(config->state_dir, &report, &err);
	fputs(buf_str(&report), stdout);
	fflush(stdout);
	if (r < 0)
		return verb_fail(r == -EIO ? EXIT_OPERATOR : verb_exit_code(r), &err);
	printf("%s: ok\n", config->state_dir);
	return fflush(stdout) == 0 ? EXIT_OK : EXIT_RETRY;
}

/* Each line of text below the region's name. */
static void print_findings(const char *name, int r, struct buf *text)
{
	char *clean AUTO_FREE = strdup(buf_str(text));

	printf("region %s: %s\n", name, r == 0 ? "ok" : "FAILED");
	if (clean)
		text_clean(clean);
	for (const char *p = clean ? clean : ""; *p;) {
		size_t n = strcspn(p, "\n");

		printf("  %.*s\n", (int)n, p);
		p += n + (p[n] == '\n');
	}
	if (r < 0 && text->len == 0)
		printf("  %s\n", strerror(-r));
	fflush(stdout);
}

static int check_regions(const struct config *c, int64_t timeout_ms)
{
	unsigned failed = 0;
	int worst = EXIT_OK;

	for (unsigned i = 0; i < c->regions; i++) {
		struct buf text CLEANUP(buf_done) = {0};
		struct store_config store;
		int r;

		config_store(c, i, &store);
		r = replicator_check_region(&store, timeout_ms, &text);
		print_findings(c->region[i].name, r, &text);
		if (r == 0)
			continue;
		failed++;
		/* One that only an operator can heal outweighs those that may heal themselves. */
		if (verb_exit_code(r) > worst)
			worst = verb_exit_code(r);
	}
	if (failed) {
		struct err err = {0};

		(void)err_set(
			&err, -EIO, "%s: %u of %u regions failed", c->path, failed, c->regions);
		verb_fail(worst, &err);
	}
	return worst;
}

int verb_config_check(const struct verb_arguments *a)
{
	struct config *config AUTO_CONFIG = NULL;
	const char *timeout = verb_given(a, "timeout");
	int64_t timeout_ms = CHECK_DEFAULT_MS;
	struct err err = {0};
	int code;

	if (timeout && !option_parse_time(timeout, &timeout_ms)) {
		(void)err_set(&err, -EINVAL,
			"--timeout: not a time\nhint: write for example 500ms, 20s or 5m");
		return verb_fail(EXIT_USAGE, &err);
	}
	code = load(a->operand[0], &config);
	if (code != EXIT_OK)
		return code;
	printf("%s: ok: volume %s, %u region%s, home %s, state in %s\n", config->path, config->name,
		config->regions, config->regions == 1 ? "" : "s", config->home, config->state_dir);
	if (cache_dir_volatile(config->state_dir))
		printf("warning: the state directory %s is in memory: what is not pushed dies with "
		       "this machine\n",
			config->state_dir);
	fflush(stdout);
	return verb_given(a, "offline") ? EXIT_OK : check_regions(config, timeout_ms);
}

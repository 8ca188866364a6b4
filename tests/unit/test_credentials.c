/* Where credentials come from, in which order, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "replicator/store/credentials.h"

struct fixture {
	char dir[64];
	char file[96];
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/meridian-credentials-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	snprintf(f->file, sizeof(f->file), "%s/credentials", f->dir);
	static const char *const names[] = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
		"AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unsetenv(names[i]);
	setenv("HOME", f->dir, 1);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	char path[128];
	unlink(f->file);
	snprintf(path, sizeof(path), "%s/.aws/credentials", f->dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/.aws", f->dir);
	rmdir(path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void write_file(const char *path, const char *text)
{
	FILE *o = fopen(path, "w");
	assert_non_null(o);
	fputs(text, o);
	fclose(o);
}

#define TWO_PROFILES                                                                               \
	"# a comment\n[default]\naws_access_key_id=DEFAULTKEY\naws_secret_access_key=d/secret+=\n" \
	"\n[ orders ]\n aws_nested = x\nregion = eu-west-2\naws_access_key_id = ORDERSKEY\r\n"     \
	"aws_secret_access_key = o/secret\r\naws_session_token = tok/en==\n; end\n"

static void expect(
	struct credential_source *s, const char *access, const char *secret, const char *token)
{
	struct credentials c CLEANUP(credentials_done) = {0};
	struct err err = {0};
	assert_int_equal(credential_source_get(s, &c, &err), 0);
	assert_string_equal(c.access_key, access);
	assert_string_equal(c.secret_key, secret);
	assert_string_equal(c.session_token, token);
}

static void expect_error(struct credential_source *s, int code, const char *a, const char *b)
{
	struct credentials c;
	struct err err = {0};
	assert_int_equal(credential_source_get(s, &c, &err), code);
	assert_non_null(strstr(err.text, a));
	assert_non_null(strstr(err.text, b));
	assert_null(strstr(err.text, "secret+"));
}

static void test_order(void **state)
{
	struct fixture *f = *state;
	write_file(f->file, TWO_PROFILES);
	struct credential_source *named = credential_source_new("orders", f->file);
	struct credential_source *plain = credential_source_new(NULL, f->file);
	expect(named, "ORDERSKEY", "o/secret", "tok/en==");
	expect(plain, "DEFAULTKEY", "d/secret+=", "");
	setenv("AWS_PROFILE", "orders", 1);
	credential_source_invalidate(plain);
	expect(plain, "ORDERSKEY", "o/secret", "tok/en==");
	setenv("AWS_ACCESS_KEY_ID", "ENVKEY", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "e", 1);
	setenv("AWS_SESSION_TOKEN", "t", 1);
	expect(plain, "ENVKEY", "e", "t");
	expect(named, "ORDERSKEY", "o/secret", "tok/en==");
	credential_source_free(named);
	credential_source_free(plain);
}

static void test_default_paths(void **state)
{
	struct fixture *f = *state;
	char path[128];
	struct credential_source *s = credential_source_new(NULL, NULL);
	expect_error(s, -ENOENT, "AWS_ACCESS_KEY_ID is not set", "/.aws/credentials");
	snprintf(path, sizeof(path), "%s/.aws", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/.aws/credentials", f->dir);
	write_file(path, TWO_PROFILES);
	expect(s, "DEFAULTKEY", "d/secret+=", "");
	write_file(f->file, "[default]\naws_access_key_id=SHARED\naws_secret_access_key=s\n");
	setenv("AWS_SHARED_CREDENTIALS_FILE", f->file, 1);
	expect(s, "SHARED", "s", "");
	credential_source_free(s);
}

static void test_missing_profile(void **state)
{
	struct fixture *f = *state;
	write_file(f->file, TWO_PROFILES);
	setenv("AWS_ACCESS_KEY_ID", "ENVKEY", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "e", 1);
	struct credential_source *s = credential_source_new("nobody", f->file);
	expect_error(s, -ENOENT, "profile 'nobody'", "no section [nobody]");
	credential_source_free(s);
}

static void test_reread(void **state)
{
	struct fixture *f = *state;
	struct credential_source *s = credential_source_new("p", f->file);
	expect_error(s, -ENOENT, "profile 'p'", f->file);
	write_file(f->file, "[p]\naws_access_key_id=ONE\naws_secret_access_key=1\n");
	expect(s, "ONE", "1", "");
	write_file(f->file, "[p]\naws_access_key_id=SECOND\naws_secret_access_key=2\n");
	expect(s, "SECOND", "2", "");
	/* Same size, same mtime, same inode: only a refusal makes it read again. */
	struct stat st;
	assert_int_equal(stat(f->file, &st), 0);
	write_file(f->file, "[p]\naws_access_key_id=THIRD_\naws_secret_access_key=3\n");
	const struct timespec times[2] = {st.st_atim, st.st_mtim};
	assert_int_equal(utimensat(-1, f->file, times, 0), 0);
	expect(s, "SECOND", "2", "");
	credential_source_invalidate(s);
	expect(s, "THIRD_", "3", "");
	credential_source_free(s);
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"[p]\naws_access_key_id = A\n", "lacks aws_secret_access_key"},
		{"[p]\naws_secret_access_key = secret+\n", "lacks aws_access_key_id"},
		{"[p\naws_access_key_id = A\n", ":1: expected [section]"},
		{"[p]\njunk\n", ":2: expected name = value"},
		{"[p]\naws_access_key_id = A B\n", ":2: not a possible value of aws_access_key_id"},
		{"[p]\naws_access_key_id = A/B\n", ":2: not a possible value"},
		{"[p]\naws_secret_access_key = secret+\x01\n", ":2: not a possible value"},
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		write_file(f->file, bad[i].text);
		struct credential_source *s = credential_source_new("p", f->file);
		expect_error(s, -EINVAL, bad[i].says, f->file);
		credential_source_free(s);
	}
	FILE *o = fopen(f->file, "w");
	assert_non_null(o);
	fprintf(o, "[p]\naws_access_key_id = %09000d\n", 0);
	fclose(o);
	struct credential_source *s = credential_source_new("p", f->file);
	expect_error(s, -EINVAL, ":2: line or file too long", "p");
	credential_source_free(s);
	setenv("AWS_ACCESS_KEY_ID", "A\r\nX-Evil: 1", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "s", 1);
	s = credential_source_new(NULL, f->file);
	expect_error(s, -EINVAL, "AWS_ACCESS_KEY_ID", "not possible");
	unsetenv("AWS_SECRET_ACCESS_KEY");
	expect_error(s, -EINVAL, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY is not");
	credential_source_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_order, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_default_paths, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_missing_profile, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_reread, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

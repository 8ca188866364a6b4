/* Why this file: the verbs' side of the control socket. It does not trust the daemon's lines to be
 * short or well-formed: the socket may belong to an older version, or to somebody else's directory.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/control.h"
#include "src/text.h"

#define ANSWER_LINE_MAX (1024 * 1024)

/* flags: beside SOCK_STREAM. With SOCK_NONBLOCK -EAGAIN says that the daemon's queue is full. */
static int connect_with(const char *directory, int flags)
{
	int dir AUTO_CLOSE = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (dir < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" CONTROL_NAME, dir);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

int control_connect(const char *directory, pid_t *pid)
{
	int fd = connect_with(directory, 0);
	struct ucred peer;
	socklen_t n = sizeof(peer);

	if (fd < 0)
		return fd;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	if (pid)
		*pid = peer.pid;
	return fd;
}

bool control_is_gone(const char *directory)
{
	int fd = connect_with(directory, SOCK_NONBLOCK);

	if (fd >= 0)
		close(fd);
	return fd == -ENOENT || fd == -ECONNREFUSED;
}

static int send_request(int fd, unsigned words, const char *const *word)
{
	struct buf out CLEANUP(buf_done) = {0};
	size_t sent = 0;

	for (unsigned i = 0; i < words; i++) {
		if (i)
			buf_put_u8(&out, ' ');
		text_escape(&out, word[i], strlen(word[i]));
	}
	buf_put_u8(&out, '\n');
	if (out.failed)
		return -ENOMEM;
	if (out.len > CONTROL_LINE_MAX)
		return -ENAMETOOLONG;
	while (sent < out.len) {
		ssize_t n = send(fd, out.data + sent, out.len - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			return 0; /* refused: the reason may be there to read */
		if (n < 0)
			return -errno;
		sent += (size_t)n;
	}
	return 0;
}

/* "error CODE TEXT" */
static int read_error(const char *line, struct err *err)
{
	struct buf text CLEANUP(buf_done) = {0};
	char *rest;
	long code = strtol(line, &rest, 10);

	if (code <= 0 || code > 4095 || *rest != ' ' ||
		!text_unescape(&text, rest + 1, strlen(rest + 1)))
		return err_set(err, -EPROTO, "the daemon's answer makes no sense");
	(void)err_set(err, -(int)code, "%s", buf_str(&text));
	if (err)
		text_clean(err->text);
	return -(int)code;
}

/* One line of the answer. 1: more to come. */
static int handle_line(const char *line, control_line_fn fn, void *ctx, struct err *err)
{
	if (strcmp(line, "ok") == 0)
		return 0;
	if (strncmp(line, "error ", 6) == 0)
		return read_error(line + 6, err);
	if ((line[0] != '=' && line[0] != '~') || line[1] != ' ')
		return err_set(err, -EPROTO, "the daemon's answer makes no sense");
	if (fn)
		fn(ctx, line[0] == '~', line + 2);
	return 1;
}

/* Waits for more of the answer. Bytes read, or -errno. */
static ssize_t receive(int fd, struct buf *in, int64_t timeout_ms)
{
	int64_t end = timeout_ms < 0 ? INT64_MAX : clock_monotonic_ms() + timeout_ms;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	for (;;) {
		int64_t left = timeout_ms < 0 ? 60000 : end - clock_monotonic_ms();
		void *room;
		ssize_t n;

		if (left <= 0)
			return -ETIMEDOUT;
		if (poll(&p, 1, (int)(left > 60000 ? 60000 : left)) <= 0)
			continue;
		room = buf_reserve(in, 4096);
		if (!room)
			return -EPROTO;
		n = recv(fd, room, 4096, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		in->len += (size_t)n;
		return n;
	}
}

int control_request(int fd, unsigned words, const char *const *word, int64_t timeout_ms,
	control_line_fn fn, void *ctx, struct err *err)
{
	struct buf in CLEANUP(buf_done) = {.max = ANSWER_LINE_MAX};
	int r = send_request(fd, words, word);

	if (r < 0)
		return err_errno(err, r, "cannot ask the daemon");
	for (;;) {
		char *newline = in.len ? memchr(in.data, '\n', in.len) : NULL;
		ssize_t n;

		if (newline) {
			size_t used = (size_t)(newline - (char *)in.data) + 1;

			*newline = '\0';
			r = handle_line((char *)in.data, fn, ctx, err);
			if (r <= 0)
				return r;
			in.len -= used;
			memmove(in.data, in.data + used, in.len);
			continue;
		}
		n = receive(fd, &in, timeout_ms);
		if (n == 0 || n == -ECONNRESET)
			return err_set(err, -ECONNRESET, "the daemon ended before it answered");
		if (n == -ETIMEDOUT)
			return err_set(err, -ETIMEDOUT, "the daemon does not answer");
		if (n < 0)
			return err_errno(err, (int)n, "cannot read the daemon's answer");
	}
}

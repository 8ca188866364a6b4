/*
 * The control socket: how `meridian status`, `flush` and `umount` talk to the daemon. A Unix stream
 * socket "control" in the state directory, mode 0600; peers are root or the daemon's own user
 * (SO_PEERCRED).
 *
 *   request  one line of at most CONTROL_LINE_MAX bytes: words separated by single spaces, each
 *            percent-escaped (text_escape); a client may send several, one after the other
 *   reply    lines: "= text" (data), "~ text" (progress), then one of "ok" or "error CODE TEXT"
 *            (CODE: an errno, TEXT percent-escaped)
 */
#ifndef SRC_CONTROL_H
#define SRC_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "src/base/attribute.h"
#include "src/base/err.h"

#define CONTROL_LINE_MAX 8192
#define CONTROL_WORDS_MAX 8
#define CONTROL_CLIENTS_MAX 16
#define CONTROL_IDLE_MS                                                                            \
	10000 /* for a request to arrive whole, and for a client to read its answer */
#define CONTROL_NAME "control"

/* The server. */
struct control;
struct control_client; /* the connection that is served */

/* Sends each line of text as data. False when the client has gone or the server stops. */
bool control_send(struct control_client *client, const char *text) MUST_CHECK;
/* One line of progress; the same. */
bool control_progress(struct control_client *client, const char *text) MUST_CHECK;

/* Serves one request on a thread of its own; word[0 … words-1], words >= 1. 0: "ok" is sent. -errno
 * with err: the error is. */
typedef int (*control_handler)(void *ctx, struct control_client *client, unsigned words,
	const char *const *word, struct err *err);

/* Makes the socket in directory (which only its owner may enter). Who connects now waits for
 * control_start. */
int control_open(const char *directory, control_handler handler, void *ctx, struct control **ret,
	struct err *err) MUST_CHECK;
/* Starts serving. Call once. */
int control_start(struct control *c, struct err *err) MUST_CHECK;
/* Cuts every client, joins the threads, removes the socket. NULL is fine. */
void control_stop(struct control *c);

/* The client. */

/* A connected socket, or -errno: -ENOENT and -ECONNREFUSED when no daemon serves that directory.
 * pid may be NULL. Blocks while CONTROL_CLIENTS_MAX others wait for a daemon that has not started to serve. */
int control_connect(const char *directory, pid_t *pid) MUST_CHECK;
/* Whether no daemon has the socket of that directory, as far as that is certain. Never blocks. */
bool control_is_gone(const char *directory) MUST_CHECK;

/* Called for each line of the answer. */
typedef void (*control_line_fn)(void *ctx, bool progress, const char *text);

/* Sends a request (words are escaped here) and reads the answer. 0, or the daemon's -errno with its
 * text, or -ECONNRESET when the daemon ended, -ETIMEDOUT after timeout_ms without a line (< 0:
 * none), -EPROTO. */
int control_request(int fd, unsigned words, const char *const *word, int64_t timeout_ms,
	control_line_fn fn, void *ctx, struct err *err) MUST_CHECK;

#endif

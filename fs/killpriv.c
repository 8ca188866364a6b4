/*
 * Who clears the set-id bits when content or owner change: with FUSE_HANDLE_KILLPRIV_V2, this process.
 * In return the kernel does not ask for security.capability before every write.
 *
 * The kernel says so with a flag in the request, which no libfuse passes on; hence the look at the
 * request as it came. It does not know the flag's meaning for a write that is passed through or for
 * fallocate: there its generic code first asks for the bits to go, and what reaches us of that is a
 * setattr that sets nothing. chown(-1, -1) sends one, too: see check_setid.
 */
#include "fs/internal.h"

#include <linux/fuse.h>

static _Thread_local bool asked;

/* The request's argument, NULL when it is too short for one of that size. */
static const void *argument(const void *request, size_t size, size_t of_size)
{
	const char *p = request;

	return size >= sizeof(struct fuse_in_header) + of_size ? p + sizeof(struct fuse_in_header)
							       : NULL;
}

static bool setattr_asks(const struct fuse_setattr_in *a)
{
	return a && ((a->valid & FATTR_KILL_SUIDGID) ||
			    (a->valid & ~(uint32_t)(FATTR_FH | FATTR_LOCKOWNER)) == 0);
}

/* The kernel lets no write of the file come between this request and its answer. */
static void note_mode(struct fs *fs, const struct fuse_setattr_in *a)
{
	if (a && (a->valid & FATTR_MODE) && (a->mode & (S_ISUID | S_ISGID)))
		atomic_fetch_add(&fs->setid_generation, 1);
}

static bool write_asks(const struct fuse_write_in *a)
{
	return a && (a->write_flags & FUSE_WRITE_KILL_SUIDGID);
}

static bool open_asks(const struct fuse_open_in *a)
{
	return a && (a->open_flags & FUSE_OPEN_KILL_SUIDGID);
}

void killpriv_note(struct fs *fs, const void *request, size_t size)
{
	const struct fuse_in_header *in = request;

	asked = false;
	if (size < sizeof(*in) || !atomic_load(&fs->passthrough.killpriv))
		return;
	switch (in->opcode) {
	case FUSE_WRITE:
		asked = write_asks(argument(request, size, sizeof(struct fuse_write_in)));
		break;
	case FUSE_SETATTR:
		note_mode(fs, argument(request, size, sizeof(struct fuse_setattr_in)));
		asked = setattr_asks(argument(request, size, sizeof(struct fuse_setattr_in)));
		break;
	case FUSE_OPEN:
		asked = open_asks(argument(request, size, sizeof(struct fuse_open_in)));
		break;
	default:
		break;
	}
}

bool killpriv_asked(void)
{
	return asked;
}

/* Passthrough and FUSE_HANDLE_KILLPRIV_V2 by libfuse's own calls, which it has from 3.17 on. */
#include "fs/internal.h"

#define STACK_DEPTH 1 /* one file system below this one, and room for an overlay above */

void backing_note(struct fs *fs, const void *request, size_t size)
{
}

bool backing_want(struct fs *fs, struct fuse_conn_info *conn, bool passthrough)
{
	atomic_store(&fs->passthrough.killpriv,
		fuse_set_feature_flag(conn, FUSE_CAP_HANDLE_KILLPRIV_V2));
	if (!passthrough)
		fuse_unset_feature_flag(conn, FUSE_CAP_PASSTHROUGH);
	else if (fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH))
		conn->max_backing_stack_depth = STACK_DEPTH;
	else
		return false;
	return passthrough;
}

int backing_attach(struct fs *fs)
{
	return 0;
}

int backing_reply_open(fuse_req_t req, struct fuse_file_info *fi, int id)
{
	fi->backing_id = id;
	return fuse_reply_open(req, fi);
}

int backing_reply_create(
	fuse_req_t req, const struct fuse_entry_param *e, struct fuse_file_info *fi, int id)
{
	fi->backing_id = id;
	return fuse_reply_create(req, e, fi);
}

/* The end of a process whose invariants no longer hold. Goes through the log, which takes no lock
 * and allocates nothing, because a daemon in the background has no standard error. */
#include "src/base/attribute.h"

#include "src/base/log.h"

_Noreturn void check_failed(const char *expr, const char *file, int line)
{
	log_error("invariant broken expr=\"%s\" at=%s:%d", expr, file, line);
	abort();
}

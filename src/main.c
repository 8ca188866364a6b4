/* The program meridian: see verbs.h. */
#include "src/verbs.h"

int main(int argc, char **argv)
{
	return verbs_main(argc, argv);
}

/* S3's XML answers: any bytes either parse within the bounds or are refused. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "replicator/store/s3_xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct s3_list_page page CLEANUP(s3_list_page_done) = {0};
	struct s3_answer answer;
	if (s3_xml_list(data, size, &page) == 0) {
		CHECK(page.count <= S3_LIST_PAGE);
		for (size_t i = 0; i < page.count; i++) {
			CHECK(strlen(s3_list_key(&page, i)) < size);
			CHECK(strlen(page.item[i].object.etag) < STORE_ETAG_SIZE);
		}
	}
	if (s3_xml_answer(data, size, &answer) == 0 && answer.is_error)
		CHECK(answer.code[0] && strlen(answer.message) < sizeof(answer.message));
	return 0;
}

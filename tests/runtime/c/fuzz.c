/* libFuzzer's target: any bytes as weights, as they are and with length and checksum mended. `make fuzz-engine`. */
#define FUZZER
#include "hostile.c"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  unsigned char *mended = malloc(size ? size : 1);
  if (size) memcpy(mended, data, size);
  mend(mended, size);
  try_weights(data, size);
  try_weights(mended, size);
  free(mended);
  return 0;
}

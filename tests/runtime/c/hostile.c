/* Weights that somebody broke, or made to break the engine: none may do more than be refused, or be a detector that
 * hears nonsense. To be compiled with address and undefined-behaviour sanitizers.
 *
 *     hostile truncated FILE         every shorter file, each in memory of exactly its size, as it is and mended
 *     hostile fields FILE            every field of the header with other values, with its checksum mended
 *     hostile flipped FILE COUNT     bits flipped at random, with the checksum mended
 *     hostile random COUNT           random bytes behind a true beginning
 *
 * Prints how many were tried and how many were taken. */
#include "../../../runtime/c/earshot.c"

#include <stdio.h>
#include <stdlib.h>

#define LARGEST (1 << 24) /* bytes of memory that an engine is given here */

static unsigned long tried, taken;
static uint64_t state = 88172645463325252u;

static uint32_t next(void) { /* xorshift64, Marsaglia 2003 */
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 32);
}

/* Length and checksum as the file's bytes have them: what is wrong besides has to be found by its own check. */
static void mend(unsigned char *bytes, size_t size) {
  if (size < 20) return;
  const uint32_t length = (uint32_t)size, checksum = checksum_of(bytes + 20, size - 20);
  memcpy(bytes + 12, &length, 4);
  memcpy(bytes + 16, &checksum, 4);
}

/* A copy in memory of its own, so that a sanitizer sees one byte too far; two hops if it is taken. */
static void try_weights(const unsigned char *bytes, size_t size) {
  unsigned char *weights = malloc(size ? size : 1);
  if (size) memcpy(weights, bytes, size);
  tried++;
  const size_t needed = earshot_memory(weights, size);
  if (needed && needed < LARGEST) {
    void *memory = malloc(needed);
    if (earshot_init(memory, needed, weights, size) != EARSHOT_OK) abort();
    earshot *engine = memory;
    const size_t hop = (size_t)earshot_hop_samples(engine);
    float *audio = malloc(hop * sizeof *audio), *scores = malloc((size_t)earshot_keywords(engine) * sizeof *scores);
    int16_t *integers = malloc(hop * sizeof *integers);
    for (size_t i = 0; i < hop; i++) {
      audio[i] = (float)(int32_t)next() * 0x1p-31f;
      integers[i] = (int16_t)next();
    }
    for (int k = 0; k < earshot_keywords(engine); k++) {
      const char *name = earshot_keyword(engine, k);
      if (!strlen(name) || earshot_threshold(engine, k) != earshot_threshold(engine, k)) abort();
    }
    for (int i = 0; i < 2; i++) {
      const int status = i ? earshot_step_int16(engine, integers, scores) : earshot_step(engine, audio, scores);
      if (status != EARSHOT_OK && status != EARSHOT_NOT_FINITE) abort();
      for (int k = 0; k < earshot_keywords(engine); k++)
        if (!(scores[k] >= 0 && scores[k] <= 1)) abort();
    }
    earshot_reset(engine);
    taken++;
    free(integers);
    free(scores);
    free(audio);
    free(memory);
  } else if (!needed && earshot_init(NULL, 0, weights, size) == EARSHOT_OK) {
    abort();
  }
  free(weights);
}

static void try_truncated(const unsigned char *bytes, size_t size) {
  unsigned char *copy = malloc(size);
  for (size_t shorter = 0; shorter < size; shorter++) {
    try_weights(bytes, shorter);
    memcpy(copy, bytes, shorter);
    mend(copy, shorter);
    try_weights(copy, shorter);
  }
  free(copy);
}

static void try_fields(unsigned char *bytes, size_t size) {
  static const uint32_t values[] = {0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 20, 39, 40, 41, 63, 64, 100, 101, 255, 256, 257,
    1000, 1023, 1024, 16384, 65535, 65536, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
  for (size_t at = 0; at < HEADER; at += 4) {
    uint32_t kept, value;
    memcpy(&kept, bytes + at, 4);
    for (size_t i = 0; i < sizeof values / sizeof *values + 4; i++) {
      value = i < sizeof values / sizeof *values ? values[i] : kept + (uint32_t)(i % 4) - 2;
      memcpy(bytes + at, &value, 4);
      try_weights(bytes, size);
      mend(bytes, size);
      try_weights(bytes, size);
    }
    memcpy(bytes + at, &kept, 4);
    mend(bytes, size);
  }
}

static void try_flipped(unsigned char *bytes, size_t size, long count) {
  unsigned char *copy = malloc(size);
  for (long i = 0; i < count; i++) {
    memcpy(copy, bytes, size);
    for (uint32_t flips = 1 + next() % 8; flips; flips--)
      copy[20 + next() % (size - 20)] ^= (unsigned char)(1u << next() % 8);
    if (i % 8) mend(copy, size);
    try_weights(copy, size);
  }
  free(copy);
}

/* Sizes are drawn small, so that some fit each other and the file. */
static void try_random(long count) {
  static unsigned char bytes[1 << 16];
  for (long i = 0; i < count; i++) {
    size_t size = next() % 4096 * 4;
    for (size_t at = 0; at < size; at++) bytes[at] = (unsigned char)next();
    Sizes s = {.version = 1, .bytes = (uint32_t)size, .keywords = 1, .refractory_hops = 1 + next() % 20,
      .channels = 1 + next() % 4, .kernel_mels = 1 + next() % 40, .kernel_frames = 1 + next() % 9,
      .stride_mels = 1 + next() % 40, .stride_frames = 1 + next() % 9, .mix = next() % 4, .steps = 1 + next() % 2,
      .hidden = 1 + next() % 9, .layers = 1 + next() % 2, .window = 1 + next() % 20, .averaged = 1 + next() % 5,
      .members = 1 + next() % 2, .type = next() % 2, .names = 2};
    if (i % 4 && in_range(&s)) size = s.bytes = (uint32_t)total_of(&s).bytes;
    if (size > sizeof bytes) continue;
    if (size >= HEADER) {
      memcpy(bytes, "EARSHOT", 8);
      memcpy(bytes + 8, &s, sizeof s);
      memcpy(bytes + 112, "x", 2);
      mend(bytes, size);
    }
    try_weights(bytes, size);
    for (size_t at = 128; i % 2 && at + 4 <= size; at += 4) bytes[at + 3] = (unsigned char)(bytes[at + 3] & 0xbf);
    mend(bytes, size);
    try_weights(bytes, size);
  }
}

#ifndef FUZZER
int main(int count, char **arguments) {
  static unsigned char bytes[1 << 22];
  size_t size = 0;
  if (count < 3) return 2;
  const char *kind = arguments[1];
  if (strcmp(kind, "random") == 0) {
    try_random(atol(arguments[2]));
  } else {
    FILE *file = fopen(arguments[2], "rb");
    if (!file) return 2;
    size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
  }
  if (strcmp(kind, "truncated") == 0) try_truncated(bytes, size);
  if (strcmp(kind, "fields") == 0) try_fields(bytes, size);
  if (strcmp(kind, "flipped") == 0 && count > 3) try_flipped(bytes, size, atol(arguments[3]));
  if (size) try_weights(bytes, size);
  printf("%lu %lu\n", tried, taken);
  return 0;
}
#endif

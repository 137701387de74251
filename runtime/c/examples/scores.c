/* The scores of a recording, hop by hop:
 *
 *     cc -std=c99 -O3 -fno-trapping-math -I.. -o scores scores.c ../earshot.c
 *     ./scores model.bin recording.wav
 *
 * The recording: 16 kHz, mono, 16-bit WAV. One line a hop, a score for each keyword. To standard error: what an engine
 * takes of memory and time, and the events. A file whose name ends in .f32 is read as float samples in -1...1. */
#define _POSIX_C_SOURCE 199309L
#include "earshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
  unsigned char *bytes;
  size_t size;
} Content;

static Content content_of(const char *path) {
  Content content = {NULL, 0};
  FILE *file = fopen(path, "rb");
  if (!file) return content;
  fseek(file, 0, SEEK_END);
  const long size = ftell(file);
  rewind(file);
  if (size >= 0 && (content.bytes = malloc((size_t)size + 1)) != NULL)
    content.size = fread(content.bytes, 1, (size_t)size, file);
  fclose(file);
  return content;
}

static uint32_t number(const unsigned char *bytes, int size) {
  uint32_t value = 0;
  while (size--) value = value << 8 | bytes[size];
  return value;
}

/* The samples of a WAV file; size 0 if it is of another kind. */
static Content samples_of(Content wav) {
  Content found = {NULL, 0};
  size_t at = 12;
  int good = 0;
  if (wav.size < 12 || memcmp(wav.bytes, "RIFF", 4) || memcmp(wav.bytes + 8, "WAVE", 4)) return found;
  while (at + 8 <= wav.size) {
    const unsigned char *chunk = wav.bytes + at;
    const size_t left = wav.size - at - 8, told = number(chunk + 4, 4), size = told < left ? told : left;
    if (!memcmp(chunk, "fmt ", 4) && size >= 16)
      good = number(chunk + 8, 2) == 1 && number(chunk + 10, 2) == 1 && number(chunk + 12, 4) == 16000
        && number(chunk + 22, 2) == 16;
    if (!memcmp(chunk, "data", 4) && good) {
      found.bytes = wav.bytes + at + 8;
      found.size = size;
      return found;
    }
    at += 8 + size + size % 2;
  }
  return found;
}

static double microseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static int fail(const char *path, const char *problem) {
  fprintf(stderr, "scores: %s: %s\n", path, problem);
  return 2;
}

/* Every hop's scores and events. Returns the time that steps took, in microseconds. */
static double listen(earshot *engine, Content audio, int floats) {
  const size_t hop = (size_t)earshot_hop_samples(engine), sample = floats ? sizeof(float) : sizeof(int16_t);
  const int keywords = earshot_keywords(engine), refractory = earshot_refractory_hops(engine);
  float *samples = malloc(hop * sizeof(float)), *scores = malloc((size_t)keywords * sizeof(float));
  long *before = calloc((size_t)keywords, sizeof(long)); /* hops since a score reached the threshold */
  double spent = 0;
  if (!samples || !scores || !before) return 0;
  for (int k = 0; k < keywords; k++) before[k] = refractory;
  for (size_t i = 0; (i + 1) * hop * sample <= audio.size; i++) {
    memcpy(samples, audio.bytes + i * hop * sample, hop * sample);
    const double start = microseconds();
    if (floats)
      earshot_step(engine, samples, scores);
    else
      earshot_step_int16(engine, (int16_t *)(void *)samples, scores);
    spent += microseconds() - start;
    for (int k = 0; k < keywords; k++) {
      printf("%.9g%c", (double)scores[k], k + 1 < keywords ? ' ' : '\n');
      const int high = scores[k] >= earshot_threshold(engine, k);
      if (high && before[k] >= refractory)
        fprintf(stderr, "%.2f s: %s, score %.3f\n", (double)((i + 1) * hop) / 16000, earshot_keyword(engine, k),
                (double)scores[k]);
      before[k] = high ? 0 : before[k] + 1;
    }
  }
  free(samples);
  free(scores);
  free(before);
  return spent;
}

int main(int count, char **arguments) {
  if (count != 3) {
    fputs("usage: scores model.bin recording.wav\n", stderr);
    return 2;
  }
  const char *weights_path = arguments[1], *audio_path = arguments[2];
  const size_t length = strlen(audio_path);
  const int floats = length > 4 && strcmp(audio_path + length - 4, ".f32") == 0;
  const Content weights = content_of(weights_path), file = content_of(audio_path);
  if (!weights.bytes) return fail(weights_path, "cannot be read");
  if (!file.bytes) return fail(audio_path, "cannot be read");
  const Content audio = floats ? file : samples_of(file);
  if (!audio.size) return fail(audio_path, "not a 16 kHz, mono, 16-bit WAV file");
  const size_t size = earshot_memory(weights.bytes, weights.size);
  void *memory = malloc(size ? size : 1);
  const int status = earshot_init(memory, size, weights.bytes, weights.size);
  if (status != EARSHOT_OK) return fail(weights_path, earshot_message(status));
  earshot *engine = memory;
  const size_t sample = floats ? sizeof(float) : sizeof(int16_t);
  const size_t hops = audio.size / sample / (size_t)earshot_hop_samples(engine);
  const double spent = listen(engine, audio, floats);
  fprintf(stderr, "%zu bytes of weights, %zu of memory, %.1f microseconds a hop\n", weights.size, size,
          hops ? spent / (double)hops : 0);
  free(memory);
  free(file.bytes);
  free(weights.bytes);
  return 0;
}

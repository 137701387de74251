/* Earshot's detector in C99: 16 kHz audio in, one score a keyword out, hop by hop.
 *
 *     static const unsigned char weights[] = {...};         a bundle's model.bin, aligned to 8 bytes
 *     size_t size = earshot_memory(weights, sizeof weights);
 *     earshot *engine = aligned_alloc(16, size);            or a static array of that size
 *     if (earshot_init(engine, size, weights, sizeof weights)) ...
 *     for (;;) {
 *       int16_t hop[1280];                                  earshot_hop_samples(engine) of them: 80 ms
 *       float score[1];                                     earshot_keywords(engine) of them
 *       read_microphone(hop);
 *       earshot_step_int16(engine, hop, score);
 *       if (score[0] >= earshot_threshold(engine, 0)) ...   and not within earshot_refractory_hops of the last event
 *     }
 *
 * The library allocates nothing, keeps no global state, and calls memcpy, memmove, memset, memcmp and strlen only.
 * Weights are read where they lie and must stay there. Several engines may share weights; one engine must not be used
 * by two threads at once.
 * docs/engine-c.md has the format of the weights, and memory and time for several models.
 */
#ifndef EARSHOT_H
#define EARSHOT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct earshot earshot;

enum earshot_status {
  EARSHOT_OK = 0,
  EARSHOT_NOT_WEIGHTS = 1, /* the bytes do not begin as a model.bin does */
  EARSHOT_VERSION = 2,     /* a version of the format that this library does not know */
  EARSHOT_DAMAGED = 3,     /* truncated, changed, or with sizes out of range */
  EARSHOT_MEMORY = 4,      /* less memory than earshot_memory asks for */
  EARSHOT_ALIGNMENT = 5,   /* memory or weights do not lie at a multiple of 8 bytes */
  EARSHOT_NOT_FINITE = 6   /* audio with NaN, infinity or absurdly large values, or a score that is no number */
};

/* Bytes of memory that an engine with these weights needs; 0 if they cannot be used: earshot_init says why. */
size_t earshot_memory(const void *weights, size_t weights_size);

/* Check weights completely and start a stream. On EARSHOT_OK `memory` is an engine: earshot *engine = memory.
 * On any other status memory is as it was. */
int earshot_init(void *memory, size_t memory_size, const void *weights, size_t weights_size);

/* Start a new stream: nothing has been heard. */
void earshot_reset(earshot *engine);

/* One hop: earshot_hop_samples(engine) samples at 16 kHz, float in -1...1 or int16, give earshot_keywords(engine)
 * scores in 0...1. EARSHOT_NOT_FINITE: the scores are 0 and the stream was reset. */
int earshot_step(earshot *engine, const float *hop, float *scores);
int earshot_step_int16(earshot *engine, const int16_t *hop, float *scores);

/* What the weights say of their use. Index of a keyword: 0 ... earshot_keywords(engine) - 1. */
int earshot_hop_samples(const earshot *engine);
int earshot_keywords(const earshot *engine);
int earshot_refractory_hops(const earshot *engine);              /* hops after an event in which there is no other */
const char *earshot_keyword(const earshot *engine, int index);   /* UTF-8; NULL if there is no such keyword */
float earshot_threshold(const earshot *engine, int index);       /* a score from which on the keyword was heard */

/* What a status means, in English: "truncated or damaged weights". */
const char *earshot_message(int status);

#ifdef __cplusplus
}
#endif

#endif

/* A detector on a Cortex-M without an operating system: it runs a recording that lies in memory and prints the bits of
 * each hop's scores, and then what it needed. Made for Arm's MPS2 boards, which qemu emulates (an386: M4, an500: M7).
 *
 * On a microcontroller `recording` is what a DMA fills from an I2S or PDM microphone, and `print` what an event does.
 */
#include "earshot.h"

#include "board.h"

extern const unsigned char weights[], weights_end[];
extern const int16_t recording[], recording_end[];

static uint64_t memory[MEMORY / 8]; /* of the engine: what earshot_memory says, known once for a model */

static void print_number(const char *name, uint32_t number, int base) {
  static char text[12];
  char *at = text + sizeof text - 1;
  do {
    *--at = "0123456789abcdef"[number % (uint32_t)base];
    number /= (uint32_t)base;
  } while (number);
  board_print(name);
  board_print(at);
  board_print("\n");
}

int main(void) {
  const size_t size = (size_t)(weights_end - weights), needed = earshot_memory(weights, size);
  const int status = earshot_init(memory, sizeof memory, weights, size);
  if (status != EARSHOT_OK) {
    board_print(earshot_message(status));
    print_number(": memory ", needed, 10);
    return 1;
  }
  earshot *engine = (earshot *)memory;
  const int hop = earshot_hop_samples(engine);
  uint32_t ticks = 0, hops = 0;
  for (const int16_t *at = recording; recording_end - at >= hop; at += hop, hops++) {
    float scores[32];
    const uint32_t start = board_ticks();
    earshot_step_int16(engine, at, scores);
    ticks += board_ticks() - start;
    for (int k = 0; k < earshot_keywords(engine); k++) {
      uint32_t bits;
      __builtin_memcpy(&bits, &scores[k], sizeof bits);
      print_number("score ", bits, 16);
    }
  }
  print_number("memory ", needed, 10);
  print_number("stack ", board_stack(), 10);
  print_number("ticks ", ticks / (hops ? hops : 1), 10);
  return 0;
}

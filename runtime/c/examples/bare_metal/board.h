/* What main.c wants of a board. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

void board_print(const char *text);
uint32_t board_ticks(void); /* of a clock; differences of less than 2^24 hold */
uint32_t board_stack(void); /* bytes of the stack that were ever used */

#endif

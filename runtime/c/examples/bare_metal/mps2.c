/* Start-up of an MPS2 board, and its input and output: semihosting, so that an emulator or a debugger shows it. */
#include "board.h"

int main(void);

extern uint32_t data_start[], data_end[], data_source[], bss_start[], bss_end[], stack_start[], stack_end[];

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYSTICK_CONTROL REGISTER(0xe000e010)
#define SYSTICK_RELOAD REGISTER(0xe000e014)
#define SYSTICK_VALUE REGISTER(0xe000e018)
#define COPROCESSORS REGISTER(0xe000ed88)
#define UNUSED_STACK 0xdeadbeefu

enum { WRITE_TEXT = 0x04, EXIT = 0x18, EXITED = 0x20026, FAILED = 0x20024 };

static void semihost(uint32_t operation, uintptr_t argument) {
  register uint32_t r0 __asm__("r0") = operation;
  register uintptr_t r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void board_print(const char *text) { semihost(WRITE_TEXT, (uintptr_t)text); }

/* SysTick counts down from 2^24 - 1 at the processor's clock. */
uint32_t board_ticks(void) { return 0u - SYSTICK_VALUE; }

uint32_t board_stack(void) {
  const uint32_t *at = stack_start;
  while (at < stack_end && *at == UNUSED_STACK) at++;
  return (uint32_t)(stack_end - at) * 4;
}

__attribute__((noreturn)) static void stop(uintptr_t reason) {
  for (;;) semihost(EXIT, reason);
}

static void fault(void) {
  board_print("fault\n");
  stop(FAILED);
}

__attribute__((noreturn)) void start(void) {
  uint32_t *here;
  __asm__ volatile("mov %0, sp" : "=r"(here));
  for (uint32_t *at = stack_start; at < here; at++) *at = UNUSED_STACK;
  for (uint32_t *to = data_start, *from = data_source; to < data_end;) *to++ = *from++;
  for (uint32_t *at = bss_start; at < bss_end; at++) *at = 0;
  COPROCESSORS |= 0xfu << 20; /* the floating-point unit */
  __asm__ volatile("dsb\n isb");
  SYSTICK_RELOAD = 0xffffff;
  SYSTICK_VALUE = 0;
  SYSTICK_CONTROL = 5; /* on, the processor's clock, no interrupt */
  stop(main() == 0 ? EXITED : FAILED);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_end, start, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault};

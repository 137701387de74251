/* The files that WEIGHTS and RECORDING name: a model.bin, and 16-bit samples. */
  .section .weights, "a"
  .balign 16
  .global weights, weights_end
weights:
  .incbin WEIGHTS
weights_end:

  .section .recording, "a"
  .balign 4
  .global recording, recording_end
recording:
  .incbin RECORDING
  .balign 2
recording_end:

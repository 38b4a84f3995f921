/* quantize.h - `inferd quantize IN OUT --scheme SCHEME`: engine/store_folder.h with a progress bar.
 *
 * Thread: main. */
#ifndef SERVER_QUANTIZE_H
#define SERVER_QUANTIZE_H

int quantize_main(int argc,
                  char **argv); /* the arguments after the name; returns the exit status */

#endif

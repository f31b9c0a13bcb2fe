/*
 * What starting a program costs by itself: starts one again and again, with nothing around it.
 *
 *   spawn-loop fork|vfork COUNT PROGRAM    prints microseconds, one line for each start
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  int shares_memory = strcmp(argv[1], "vfork") == 0;
  char *program[] = {argv[3], NULL};
  for (int left = atoi(argv[2]); left > 0; left--) {
    double began = now();
    pid_t pid = shares_memory ? vfork() : fork();
    if (pid == 0) {
      execv(program[0], program);
      _exit(127);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0) return 1;
    printf("%.0f\n", now() - began);
  }
  return 0;
}

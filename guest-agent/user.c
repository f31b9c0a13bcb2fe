#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

/*
 * The guest's own /etc/passwd and /etc/group, read by hand: a static program has no NSS, and a small guest no libc. What a program of
 * the guest may have put there instead, such as a pipe or a hole of terabytes, counts as no file: the agent serves others too.
 */
#define MAX_FILE (4 * 1024 * 1024)

struct lines {
  char *text, *next, *end;
};

static bool lines_open(struct lines *lines, const char *path) {
  *lines = (struct lines){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return false;
  struct stat status;
  if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size <= MAX_FILE &&
      (lines->text = malloc((size_t)status.st_size + 1))) {
    ssize_t count, length = 0;
    while (length < status.st_size && (count = read(fd, lines->text + length, (size_t)(status.st_size - length))) > 0) {
      length += count;
    }
    lines->next = lines->text;
    lines->end = lines->text + length;
    *lines->end = '\n'; /* the last line may have none */
  }
  close(fd);
  return lines->text != NULL;
}

/* The next line, as a string of its own, or NULL. */
static char *lines_next(struct lines *lines) {
  if (lines->next >= lines->end) return NULL;
  char *line = lines->next, *newline = memchr(line, '\n', (size_t)(lines->end - line) + 1);
  *newline = 0;
  lines->next = newline + 1;
  return line;
}

static bool number(const char *text, uint32_t *value) {
  if (*text < '0' || *text > '9') return false;
  char *end;
  errno = 0;
  unsigned long parsed = strtoul(text, &end, 10);
  if (*end || errno || parsed >= UINT32_MAX) return false;
  *value = (uint32_t)parsed;
  return true;
}

/* Splits a line at its colons. Gives the number of fields, at most `max`. */
static int split(char *line, char **fields, int max) {
  line[strcspn(line, "\r")] = 0;
  int count = 0;
  for (char *rest = line; rest && count < max;) fields[count++] = strsep(&rest, ":");
  return count;
}

static void copy(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }

static bool find_user(const char *name, bool by_number, uint32_t wanted, struct user *user) {
  struct lines lines;
  if (!lines_open(&lines, "/etc/passwd")) return false;
  char *line, *fields[7];
  bool found = false;
  while (!found && (line = lines_next(&lines))) {
    uint32_t uid, gid;
    if (split(line, fields, 7) < 7 || !number(fields[2], &uid) || !number(fields[3], &gid)) continue;
    if (by_number ? uid != wanted : strcmp(fields[0], name) != 0) continue;
    found = true;
    user->uid = uid;
    user->gid = gid;
    copy(user->name, sizeof user->name, fields[0]);
    copy(user->home, sizeof user->home, fields[5]);
    copy(user->shell, sizeof user->shell, fields[6]);
  }
  free(lines.text);
  return found;
}

static bool listed(char *members, const char *name) {
  for (char *member; (member = strsep(&members, ","));) {
    if (strcmp(member, name) == 0) return true;
  }
  return false;
}

/* With `name`: that group's number. Without: collects the groups that the user is a member of. */
static bool read_groups(const char *name, gid_t *gid, struct user *user) {
  struct lines lines;
  if (!lines_open(&lines, "/etc/group")) return false;
  char *line, *fields[4];
  bool found = false;
  while (!found && (line = lines_next(&lines))) {
    uint32_t number_of;
    if (split(line, fields, 4) < 3 || !number(fields[2], &number_of)) continue;
    if (name) {
      found = strcmp(fields[0], name) == 0;
      if (found) *gid = number_of;
    } else if (user->group_count < 64 && number_of != user->gid && fields[3] && listed(fields[3], user->name)) {
      user->groups[user->group_count++] = number_of;
    }
  }
  free(lines.text);
  return found;
}

static int look_up(const char *spec, struct user *user) {
  *user = (struct user){.home = "/"};
  char name[64];
  const char *colon = strchr(spec, ':');
  size_t length = colon ? (size_t)(colon - spec) : strlen(spec);
  if (length >= sizeof name) return ENOENT;
  memcpy(name, spec, length);
  name[length] = 0;
  uint32_t uid = geteuid(); /* root in a machine */
  bool by_number = length == 0 || number(name, &uid);
  if (!find_user(name, by_number, uid, user)) {
    if (!by_number) return ENOENT;
    user->uid = user->gid = uid; /* a number needs no entry */
    if (uid == 0) copy(user->name, sizeof user->name, "root"), copy(user->home, sizeof user->home, "/root");
  }
  user->groups[user->group_count++] = user->gid;
  if (colon) {
    /* A group named by hand stands alone. */
    uint32_t gid;
    if (number(colon + 1, &gid)) {
      user->gid = gid;
    } else if (!read_groups(colon + 1, &user->gid, user)) {
      return ENOENT;
    }
    user->groups[0] = user->gid;
  } else if (user->name[0]) {
    read_groups(NULL, NULL, user);
  }
  return 0;
}

static bool same_file(const char *path, struct stat *known) {
  struct stat now = {0};
  stat(path, &now); /* a missing file is all zeros, and stays so */
  bool same = now.st_ino == known->st_ino && now.st_size == known->st_size && now.st_mtim.tv_sec == known->st_mtim.tv_sec &&
              now.st_mtim.tv_nsec == known->st_mtim.tv_nsec && now.st_ctim.tv_sec == known->st_ctim.tv_sec &&
              now.st_ctim.tv_nsec == known->st_ctim.tv_nsec;
  *known = now;
  return same;
}

/* Nearly all commands of a machine run as one user: its lines are read again only when the files change. */
int user_resolve(const char *spec, struct user *user) {
  static struct user last;
  static char last_spec[128];
  static bool valid;
  static struct stat passwd, group;
  bool same_passwd = same_file("/etc/passwd", &passwd), same_group = same_file("/etc/group", &group);
  if (valid && same_passwd && same_group && strcmp(spec, last_spec) == 0) {
    *user = last;
    return 0;
  }
  int error = look_up(spec, user);
  valid = error == 0 && strlen(spec) < sizeof last_spec;
  if (valid) {
    last = *user;
    strcpy(last_spec, spec);
  }
  return error;
}

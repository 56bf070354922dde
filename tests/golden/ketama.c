/* Asks the real libmemcached which server it would send each key to, and prints the answers. See README.md. */

#include <libmemcached/memcached.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HOSTS = 128 };

/* A case: a mode, then host:port=weight for each server. */
static void run(const char *name, const char *mode, char hosts[][64], const int *ports, const int *weights, int count,
                char keys[][64], int key_count) {
  memcached_st *client = memcached_create(NULL);
  if (strcmp(mode, "weighted") == 0) {
    memcached_behavior_set(client, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1);
  } else {
    memcached_behavior_set(client, MEMCACHED_BEHAVIOR_KETAMA, 1);
    if (strcmp(mode, "default") != 0) memcached_behavior_set(client, MEMCACHED_BEHAVIOR_HASH, MEMCACHED_HASH_MD5);
  }
  for (int i = 0; i < count; i++) {
    memcached_return_t rc =
        memcached_server_add_with_weight(client, hosts[i], (in_port_t) ports[i], (uint32_t) weights[i]);
    if (memcached_failed(rc)) {
      fprintf(stderr, "%s: %s\n", hosts[i], memcached_strerror(client, rc));
      exit(1);
    }
  }
  printf("case %s %s\n", name, mode);
  for (int i = 0; i < count; i++) printf("server %s %d %d\n", hosts[i], ports[i], weights[i]);
  for (int from = 0; from < key_count; from += 50) {
    printf("owners");
    for (int k = from; k < key_count && k < from + 50; k++) {
      printf(" %u", memcached_generate_hash(client, keys[k], strlen(keys[k])));
    }
    printf("\n");
  }
  memcached_free(client);
}

static char hosts[MAX_HOSTS][64], keys[4096][64];
static int ports[MAX_HOSTS], weights[MAX_HOSTS];

static int numbered_keys(int count) {
  for (int k = 0; k < count; k++) snprintf(keys[k], sizeof keys[k], "key:%d", k);
  return count;
}

/* Keys whose bytes are above 127 in many places: where `char` is signed, the library's own hash extends the sign. */
static int odd_keys(int count) {
  static const char *words[] = {"schl\xc3\xbcssel", "\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87", "\xe9\x8d\xb5", "\xf0\x9f\x94\x91", "plain"};
  for (int k = 0; k < count; k++) snprintf(keys[k], sizeof keys[k], "%s:%d", words[k % 5], k);
  return count;
}

static void print_keys(int count) {
  printf("keys");
  for (int k = 0; k < count; k++) printf(" %s", keys[k]);
  printf("\n");
}

/* The library's default hash, one-at-a-time: `MEMCACHED_BEHAVIOR_KETAMA` and nothing else. */
static void default_hash(void) {
  static const char *names[] = {"10.0.0.1", "cache-1.example.com", "b\xc3\xbc" "cher.example", "::1", "a", "UPPER.example"};
  static const int odd_ports[] = {11211, 11212, 1, 65535, 80, 11211, 22122};
  unsigned seed = 7;
  print_keys(odd_keys(200));
  for (int round = 0; round < 24; round++) {
    int count = round < 12 ? 1 + round : 2 + round % 5;
    char name[32];
    for (int i = 0; i < count; i++) {
      seed = seed * 1103515245u + 12345u;
      if (round % 2) snprintf(hosts[i], sizeof hosts[i], "10.0.%d.%d", round, i + 1);
      else snprintf(hosts[i], sizeof hosts[i], "%s%s", names[i % 6], i < 6 ? "" : "x");
      ports[i] = odd_ports[(i * 3 + round) % 7];
      /* A weight above 1 makes the library weigh its points, and those with MD5; keys are hashed as before. */
      weights[i] = round < 12 ? 1 : 1 + (int) ((seed >> 16) % 4) + (i == 0);
    }
    snprintf(name, sizeof name, "default-%d", round);
    run(name, "default", hosts, ports, weights, count, keys, 200);
  }
  /* The heavy server last, so that the library changes its mode late. */
  for (int i = 0; i < 5; i++) weights[i] = i == 4 ? 3 : 1;
  run("default-late", "default", hosts, ports, weights, 5, keys, 200);
}

/* Reads cases of its own from a file: lines `case NAME MODE KEYS...` and `server HOST PORT WEIGHT`, each case ended by
   `end`. */
static void from_file(const char *path) {
  FILE *file = fopen(path, "r");
  char line[4096], name[64] = "", mode[64] = "";
  int count = 0, key_count = 0;
  if (!file) {
    perror(path);
    exit(1);
  }
  while (fgets(line, sizeof line, file)) {
    char *word = strtok(line, " \n");
    if (!word) continue;
    if (strcmp(word, "case") == 0) {
      snprintf(name, sizeof name, "%s", strtok(NULL, " \n"));
      snprintf(mode, sizeof mode, "%s", strtok(NULL, " \n"));
      count = key_count = 0;
      while ((word = strtok(NULL, " \n"))) snprintf(keys[key_count++], sizeof keys[0], "%s", word);
    } else if (strcmp(word, "server") == 0) {
      snprintf(hosts[count], sizeof hosts[0], "%s", strtok(NULL, " \n"));
      ports[count] = atoi(strtok(NULL, " \n"));
      weights[count++] = atoi(strtok(NULL, " \n"));
    } else if (strcmp(word, "end") == 0) {
      print_keys(key_count);
      run(name, mode, hosts, ports, weights, count, keys, key_count);
    }
  }
  fclose(file);
}

int main(int argc, char **argv) {
  printf("# libmemcached %s\n", memcached_lib_version());
  printf("keys key:0..%d\n", numbered_keys(200));

  /* Equal weights, every number of servers up to 100 (the most it is made for): shows where its rounding loses points. */
  for (int count = 1; count <= 100; count += count < 40 ? 1 : 7) {
    char name[32];
    for (int i = 0; i < count; i++) {
      snprintf(hosts[i], sizeof hosts[i], "10.0.%d.%d", i / 16, i + 1);
      ports[i] = 11211;
      weights[i] = 1;
    }
    snprintf(name, sizeof name, "equal-%d", count);
    run(name, "weighted", hosts, ports, weights, count, keys, 200);
    if (count <= 10 || count % 9 == 0) {
      snprintf(name, sizeof name, "plain-%d", count);
      run(name, "unweighted", hosts, ports, weights, count, keys, 200);
    }
  }

  /* Uneven weights, names and ports of all kinds. */
  static const char *names[] = {"localhost", "cache-1.example.com", "127.0.0.1", "::1", "a", "[fe80::1]", "cache_b", "UPPER.example"};
  static const int odd_ports[] = {11211, 11212, 1, 65535, 80, 11210, 11211, 22122};
  unsigned seed = 1;
  for (int round = 0; round < 24; round++) {
    int count = 2 + round % 7;
    char name[32];
    for (int i = 0; i < count; i++) {
      seed = seed * 1103515245u + 12345u;
      snprintf(hosts[i], sizeof hosts[i], "%s", names[(i + round) % 8]);
      ports[i] = odd_ports[(i * 3 + round) % 8];
      weights[i] = 1 + (int) ((seed >> 16) % (round < 12 ? 4 : round < 20 ? 1000 : 100000));
    }
    snprintf(name, sizeof name, "uneven-%d", round);
    run(name, "weighted", hosts, ports, weights, count, keys, 200);
  }

  for (int i = 1; i < argc; i++) from_file(argv[i]);
  default_hash();
  return 0;
}

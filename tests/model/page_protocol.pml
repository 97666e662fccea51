// SPDX-License-Identifier: Apache-2.0
//
// The protocol of an arena's page words, for spin: every interleaving of allocators, a freer, a touching host and
// deaths. docs/arena.md ("The model") says what is modelled and what is not; scripts/check_model.py has the
// configurations with their -D, and runs them.
//
// One statement is one instruction of the real thing: a store, a compare-and-swap, a system call, the clearing of a
// page. A load and the compare-and-swap of what was loaded are one statement: if the swap fails, the process looks
// again, which is a later load. Any process may be killed between any two statements.

// --- configuration ----------------------------------------------------------------------------------------------------

#ifndef PAGES
#define PAGES 1
#endif
#ifndef DEATHS
#define DEATHS 1 // at most so many processes are killed
#endif

// BOUNDED: each process does so many operations and then stops; for what may not go on for ever. Otherwise they go on.
// BOUNDED also counts what a touch counts; otherwise its patience may end at any time.
#ifdef BOUNDED
#define PATIENCE 2 // looks at a moving page before a touch asks whether the owner lives
#define INSIST 2   // faults in a row at one page before a touch fills it in place
#endif

// --- the words of the pages -------------------------------------------------------------------------------------------

#define ABSENT 0
#define POPULATING 1
#define USED 2
#define FREEING 3
#define RECYCLED 4
#define RESERVED 5
#define CLEARING 6 // like populating, of a page that was recycled
#define TOUCHED 7  // populating, and a touch relies on it

// A word is a state, and a slot and the slot's generation: the owner. `me` of a process is the last two, in place.
#define STATE(word) ((word) & 7)
#define SLOT(word) (((word) >> 3) & 7)
#define GENERATION(word) ((word) >> 6)
#define OWNER(word) ((word) & 248)
#define OWNER_OF(slot, generation) (((slot) << 3) | ((generation) << 6))
#define MOVING(word) (STATE(word) == POPULATING || STATE(word) == FREEING || STATE(word) >= CLEARING)

byte words[PAGES];

#ifdef SEPARATE_OWNER_WORD
// Negative control, the contract's first version: a second word, written before the state.
byte owners[PAGES];
#define BY(owner) 0
#define ANNOUNCE(p) owners[p] = me
#define OWNER_READ(p, word) owners[p]
#else
#define BY(owner) (owner)
#define ANNOUNCE(p) skip
#define OWNER_READ(p, word) OWNER(word)
#endif

// The slots of the processes. A lock is free as soon as its holder is gone.
#define RANGE 1
#define CACHE 2
#define FREER 3
#define HOST 4
#define SECOND 5 // another of the same kind, or a process that only recovers
#define ATTACHER 6 // no slot of its own: it takes a dead one's
#define LAST 7
#define SLOTS 8
bool locked[SLOTS];
byte generations[SLOTS];

// --- memory, and whose it is (checked here, not known to the code) ----------------------------------------------------

#define NONE 0
#define ZERO 1
#define DATA 2
byte memory[PAGES];

// Handed out to somebody, who has written to it.
bool held[PAGES];

// A touch got through while somebody was populating the page, and relies on the page becoming used.
#define VISITED 1
#define VISITED_MARKED 2 // and left a mark, so that not even the owner's death may lose it
byte visited[PAGES];

// WILD: somebody frees what is not his. Contents are lost then and pages have two holders; the words must be right.
#ifdef WILD
#define PROMISED(condition) skip
#define TOUCH_MAY_BE_LOST
#else
#define PROMISED(condition) assert(condition)
#endif
#ifdef TOUCH_MAY_BE_LOST
#define TOUCH_IS_KEPT(condition) skip
#else
#define TOUCH_IS_KEPT(condition) assert(condition)
#endif

// --- death and rest ---------------------------------------------------------------------------------------------------

#define BIT(process) (1 << (process))

byte killed; // bits of processes
byte busy;   // processes that are in the middle of an operation
byte deaths;
byte running;

#ifdef BOUNDED
#define AGAIN operations < BOUNDED -> operations++;
#else
#define AGAIN
#endif
#define BEGIN(process) busy = busy | BIT(process)
#define END(process) busy = busy & ~BIT(process)

// A process that was killed. STOPPED: not killed, but it does nothing any more.
#ifdef STOPPED
#define GONE(process, slot) atomic { killed & BIT(process) -> END(process); running-- }
#else
#define GONE(process, slot) atomic { killed & BIT(process) -> END(process); running--; locked[slot] = false }
#endif

// --- instructions -----------------------------------------------------------------------------------------------------

// As the guard of an option. `again` is the label to go to if the compare-and-swap fails; only a second word makes that
// different from looking later.
#ifdef SEPARATE_OWNER_WORD
#define CHANGE(p, from, to, again) \
    STATE(words[p]) == from -> ANNOUNCE(p); \
    if \
    :: d_step { STATE(words[p]) == from -> words[p] = to } \
    :: else -> goto again \
    fi
#else
#define CHANGE(p, from, to, again) d_step { STATE(words[p]) == from -> words[p] = to }
#endif
#define CLAIM(p, from, again) CHANGE(p, from, POPULATING | BY(me), again)
#define BEGIN_FREEING(p, from, again) CHANGE(p, from, FREEING | BY(me), again)

// The plain store that ends a move: until then, nobody but the owner has changed the word (but for a touch's mark).
#define STORE(p, to) \
    assert(MOVING(words[p]) && OWNER(words[p]) == BY(me)); \
    words[p] = to

inline end_move(p, to) {
    d_step {
        STORE(p, to);
        TOUCH_IS_KEPT(visited[p] == 0 || STATE(words[p]) != ABSENT);
        visited[p] = 0
    }
}

// The page is its caller's, who writes to it.
#define HAND_OUT(p) \
    PROMISED(!held[p]); \
    PROMISED(memory[p] == ZERO); \
    held[p] = true; \
    memory[p] = (memory[p] == NONE -> NONE : DATA)

inline store_used(p) {
    d_step { STORE(p, USED | BY(me)); visited[p] = 0; HAND_OUT(p) }
}

// UFFDIO_ZEROPAGE; EEXIST has no effect.
inline zero_page(p) {
    memory[p] = (memory[p] == NONE -> ZERO : memory[p])
}

// UFFDIO_ZEROPAGE, and on EEXIST clearing through the mapping.
inline fill(p) {
    if
    :: d_step { memory[p] == NONE -> memory[p] = ZERO }
    :: memory[p] != NONE -> clear(p)
    fi
}

// Through the mapping.
inline clear(p) {
    d_step {
        PROMISED(memory[p] != NONE && !held[p]);
        memory[p] = (memory[p] == NONE -> NONE : ZERO)
    }
}

// What a touch that met no fault wrote to the page of somebody who has died goes with it.
inline punch(p) {
    d_step {
        PROMISED(!held[p]);
        TOUCH_IS_KEPT(visited[p] != VISITED_MARKED);
        memory[p] = NONE;
        visited[p] = 0
    }
}

// --- what all do ------------------------------------------------------------------------------------------------------

// Of a page that is `freeing` by this process.
inline take_memory(p) {
#ifdef CLEAR_BEFORE_PUNCH
    // Negative control.
    end_move(p, ABSENT);
    punch(p)
#else
    punch(p);
    end_move(p, ABSENT)
#endif
}

inline take_or_keep_memory(p) {
    if
    :: take_memory(p)
    :: end_move(p, RECYCLED | BY(me))
    fi
}

// Completes the move of a dead process, as it was read in `word`.
inline recover(p) {
#ifdef RECOVER_WITHOUT_TAKEOVER
    // Negative control.
    punch(p);
    d_step { words[p] = (words[p] == word -> ABSENT : words[p]); word = 0 }
#else
    ANNOUNCE(p);
    if
    :: d_step { words[p] == word && STATE(word) == TOUCHED -> words[p] = TOUCHED | BY(me); word = 0 } ->
        zero_page(p);
        end_move(p, USED | BY(me))
    :: d_step { words[p] == word && STATE(word) != TOUCHED -> words[p] = FREEING | BY(me); word = 0 } ->
        take_memory(p)
    :: d_step { words[p] != word -> word = 0 }
    fi
#endif
}

// Of a moving page that was read in `word`. Generation and lock are not read at once, and in either order; only
// where slots are taken again does that make a difference.
inline ask_whether_dead(p) {
    asked = OWNER_READ(p, word);
#ifdef WITH_ATTACHER
    if
    :: dead = generations[SLOT(asked)] != GENERATION(asked); d_step { dead = dead || !locked[SLOT(asked)]; asked = 0 }
    :: dead = !locked[SLOT(asked)]; d_step { dead = dead || generations[SLOT(asked)] != GENERATION(asked); asked = 0 }
    fi
#else
    d_step { dead = !locked[SLOT(asked)]; asked = 0 }
#endif
}

// Whoever meets a moving page; as the guard of an option.
#define MEET_MOVING(p) d_step { MOVING(words[p]) -> word = words[p] }
#define IS_DEAD d_step { dead -> dead = false }

inline recover_if_dead(p) {
    ask_whether_dead(p);
    if
    :: IS_DEAD -> recover(p)
    :: else -> word = 0
    fi
}

inline choose_page(p) {
    p = 0;
#if PAGES > 1
    if
    :: true
    :: p = 1
    fi
#endif
}

// --- processes --------------------------------------------------------------------------------------------------------

// What a process knows; cleared after each operation, so that equal situations are equal states.
#define LOCALS byte me; byte word; byte asked; byte p; byte operations; bool dead
#define BEGIN_LIFE(slot) me = OWNER_OF(slot, 0)
#ifdef BOUNDED
#define OR_STOP :: true -> goto stop
#else
#define OR_STOP
#endif

// Allocates and reserves all pages at once.
proctype Range(byte slot) {
    LOCALS;
    bool reserving;
    bool have_memory; // the pages below p that are populating
    {
        BEGIN_LIFE(slot);
    end_idle:
        if
        :: atomic { AGAIN BEGIN(slot) }
#ifdef WITH_RESERVE
        :: atomic { AGAIN BEGIN(slot); reserving = true }
#endif
        OR_STOP
        fi;

    claim:
        if
        :: CLAIM(p, ABSENT, claim)
        :: CHANGE(p, RECYCLED, CLEARING | BY(me), claim)
        :: MEET_MOVING(p) ->
            ask_whether_dead(p);
            if
            :: IS_DEAD -> recover(p); goto claim
            :: else -> word = 0; goto undo
            fi
        :: STATE(words[p]) == USED || STATE(words[p]) == RESERVED -> goto undo
        fi;
        if
        :: p + 1 < PAGES -> p++; goto claim
        :: p + 1 == PAGES
        fi;

    fill_memory: // of reserved pages it is taken
        if
        :: STATE(words[p]) == CLEARING && !reserving -> clear(p)
        :: STATE(words[p]) == CLEARING && reserving -> punch(p)
        :: STATE(words[p]) != CLEARING && !reserving -> fill(p)
        :: STATE(words[p]) != CLEARING && reserving
#ifdef MEMORY_RUNS_OUT
        :: STATE(words[p]) != CLEARING && !reserving -> have_memory = true; p = PAGES; goto undo
#endif
        fi;
        if
        :: p > 0 -> p--; goto fill_memory
        :: p == 0
        fi;

    finish:
        if
        :: reserving -> d_step { STORE(p, RESERVED | BY(me)); visited[p] = 0; PROMISED(!held[p]); held[p] = true }
        :: !reserving -> store_used(p)
        fi;
        if
        :: p + 1 < PAGES -> p++; goto finish
        :: p + 1 == PAGES -> goto done
        fi;

    undo: // the pages below p
        if
        :: p == 0 -> goto done
        :: p > 0 -> p--
        fi;
        if
        :: words[p] == (CLEARING | BY(me)) -> end_move(p, RECYCLED | BY(me))
#ifdef HELP_WITHOUT_MARK
        :: words[p] == (POPULATING | BY(me)) && have_memory -> punch(p); end_move(p, ABSENT)
        :: words[p] == (POPULATING | BY(me)) && !have_memory -> end_move(p, ABSENT)
#else
        // A touch that relies on the page has marked it: then it is the touch's.
        :: d_step { words[p] == (POPULATING | BY(me)) && have_memory -> words[p] = FREEING | BY(me) } -> take_memory(p)
        :: d_step { words[p] == (POPULATING | BY(me)) && !have_memory -> words[p] = ABSENT;
                    TOUCH_IS_KEPT(visited[p] == 0) }
        :: words[p] == (TOUCHED | BY(me)) -> zero_page(p); end_move(p, USED | BY(me))
#endif
        fi;
        goto undo;

    done:
        atomic { p = 0; reserving = false; have_memory = false; END(slot) };
        goto end_idle;

    stop:
        running--
    } unless { GONE(slot, slot) }
}

// One look at a page of a thread's cache.
inline use_cache(p) {
    if
    :: CHANGE(p, RECYCLED, CLEARING | BY(me), done) -> clear(p); store_used(p)
    :: CLAIM(p, ABSENT, done) -> fill(p); end_move(p, RECYCLED | BY(me))
    :: MEET_MOVING(p) -> recover_if_dead(p)
    :: STATE(words[p]) == USED || STATE(words[p]) == RESERVED
    fi
}

// Allocates single pages through a thread's cache, in which any page may be, and refills it.
proctype Cache(byte slot) {
    LOCALS;
    {
        BEGIN_LIFE(slot);
    end_idle:
        if
        :: atomic { AGAIN BEGIN(slot) }
        OR_STOP
        fi;
        choose_page(p);
        use_cache(p);
    done:
        atomic { p = 0; END(slot) };
        goto end_idle;
    stop:
        running--
    } unless { GONE(slot, slot) }
}

// Frees what is held, and trims caches.
proctype Freer(byte slot) {
    LOCALS;
    {
        BEGIN_LIFE(slot);
    end_idle:
        if
        :: atomic { AGAIN BEGIN(slot) }
        OR_STOP
        fi;
        choose_page(p);
        if
        :: d_step { // its holder calls, and finds what he wrote
            held[p] ->
            PROMISED(STATE(words[p]) == RESERVED || memory[p] == DATA);
            held[p] = false
           } -> goto free
        :: true -> goto trim
#ifdef WILD
        :: true -> goto free
#endif
        fi;

    free:
        if
        :: BEGIN_FREEING(p, USED, free) -> take_or_keep_memory(p)
        :: BEGIN_FREEING(p, RESERVED, free) -> take_memory(p)
        :: STATE(words[p]) == ABSENT || STATE(words[p]) == RECYCLED -> PROMISED(false)
        :: MEET_MOVING(p) -> PROMISED(false); recover_if_dead(p)
        fi;
        goto done;

    trim:
        if
        :: BEGIN_FREEING(p, RECYCLED, trim) -> take_or_keep_memory(p)
        :: STATE(words[p]) == ABSENT || STATE(words[p]) == USED || STATE(words[p]) == RESERVED
        :: MEET_MOVING(p) -> recover_if_dead(p)
        fi;

    done:
        atomic { p = 0; END(slot) };
        goto end_idle;
    stop:
        running--
    } unless { GONE(slot, slot) }
}

// Touches pages and writes to those that its touch made used.
proctype Host(byte slot) {
    LOCALS;
    byte looks;
    byte faults;
    {
        BEGIN_LIFE(slot);
    end_idle:
        if
        :: atomic { AGAIN BEGIN(slot) }
        OR_STOP
        fi;
        choose_page(p);

    instruction:
        if
        :: memory[p] == NONE
        :: d_step {
            memory[p] != NONE;
            TOUCH_IS_KEPT(STATE(words[p]) != ABSENT);
            visited[p] = (STATE(words[p]) == TOUCHED -> VISITED_MARKED :
                          (STATE(words[p]) == POPULATING -> VISITED : 0))
           } -> goto done
        fi;

    look:
        if
        :: CLAIM(p, ABSENT, look) -> zero_page(p); store_used(p); goto instruction
        :: d_step { STATE(words[p]) == RESERVED -> word = words[p] } -> goto fill_in_place
#ifdef BOUNDED
        :: d_step { (STATE(words[p]) == USED || STATE(words[p]) == RECYCLED) && faults < INSIST -> faults++ } ->
            goto instruction
        :: d_step { (STATE(words[p]) == USED || STATE(words[p]) == RECYCLED) && faults == INSIST -> word = words[p] } ->
            goto fill_in_place
        :: d_step { MOVING(words[p]) && looks < PATIENCE -> looks++ } -> goto look
        :: d_step { MOVING(words[p]) && looks == PATIENCE -> word = words[p] }
#else
        :: STATE(words[p]) == USED || STATE(words[p]) == RECYCLED -> goto instruction
        :: d_step { STATE(words[p]) == USED || STATE(words[p]) == RECYCLED -> word = words[p] } -> goto fill_in_place
        :: MEET_MOVING(p)
#endif
        fi;

        ask_whether_dead(p);
        if
        :: IS_DEAD -> recover(p); goto look
        :: !dead && STATE(word) == CLEARING -> goto fill_in_place
        :: !dead && (STATE(word) == POPULATING || STATE(word) == TOUCHED)
        :: !dead && STATE(word) == FREEING ->
            word = 0;
#ifdef STOPPED
            goto done // SIGSEGV
#else
            goto look
#endif
        fi;

        // A live owner has been populating for long: the page gets its memory here, and the owner finds EEXIST.
#ifdef HELP_WITHOUT_MARK
        // Negative control: the owner may still undo its move.
        word = 0;
        zero_page(p);
        goto instruction;
#else
        if
        :: d_step { words[p] == word -> words[p] = TOUCHED | OWNER(word); word = words[p] } -> goto fill_in_place
        :: d_step { words[p] != word -> word = 0 } -> goto look
        fi;
#endif

    fill_in_place: // memory behind a page that has changed meanwhile is of no use
        zero_page(p);
        if
        :: d_step { words[p] == word -> word = 0 } -> goto instruction
        :: d_step { words[p] != word -> word = 0 } -> goto look
        fi;

    done:
        atomic { p = 0; looks = 0; faults = 0; END(slot) };
        goto end_idle;
    stop:
        running--
    } unless { GONE(slot, slot) }
}

// Looks at pages for no other reason than to recover them.
proctype Survivor(byte slot) {
    LOCALS;
    {
        BEGIN_LIFE(slot);
    end_idle:
        if
        :: atomic { AGAIN BEGIN(slot) }
        OR_STOP
        fi;
        choose_page(p);
        if
        :: MEET_MOVING(p) -> recover_if_dead(p)
        :: else
        fi;
    done:
        atomic { p = 0; END(slot) };
        goto end_idle;
    stop:
        running--
    } unless { GONE(slot, slot) }
}

// A new process takes a dead one's slot, completes its moves, and goes on as `Cache` does.
proctype Attacher() {
    LOCALS;
    byte slot;
    {
        me = 0;
    end_wait:
        if
        :: atomic { (killed & BIT(RANGE)) && !locked[RANGE] -> locked[RANGE] = true; slot = RANGE; BEGIN(ATTACHER) }
        :: atomic { (killed & BIT(CACHE)) && !locked[CACHE] -> locked[CACHE] = true; slot = CACHE; BEGIN(ATTACHER) }
        :: atomic { (killed & BIT(FREER)) && !locked[FREER] -> locked[FREER] = true; slot = FREER; BEGIN(ATTACHER) }
        :: atomic { (killed & BIT(HOST)) && !locked[HOST] -> locked[HOST] = true; slot = HOST; BEGIN(ATTACHER) }
        OR_STOP
        fi;
#ifndef ATTACH_KEEPS_GENERATION // negative control
        generations[slot] = (generations[slot] + 1) & 3;
#endif
        me = OWNER_OF(slot, generations[slot]);
    complete:
        if
        :: d_step { MOVING(words[p]) && SLOT(OWNER_READ(p, words[p])) == slot && OWNER_READ(p, words[p]) != me ->
                    word = words[p] } -> recover(p)
        :: else
        fi;
        if
        :: p + 1 < PAGES -> p++; goto complete
        :: p + 1 == PAGES
        fi;
    done:
        atomic { p = 0; END(ATTACHER) };
    end_idle:
        if
        :: atomic { AGAIN BEGIN(ATTACHER) }
        OR_STOP
        fi;
        choose_page(p);
        use_cache(p);
        goto done;
    stop:
        running--
    } unless { GONE(ATTACHER, slot) }
}

#define KILL(process) atomic { deaths < DEATHS && !(killed & BIT(process)) -> killed = killed | BIT(process); deaths++ }

proctype Death() {
end_idle:
    if
#ifdef WITH_RANGE
    :: KILL(RANGE)
#endif
#ifdef WITH_CACHE
    :: KILL(CACHE)
#endif
#ifdef WITH_FREER
    :: KILL(FREER)
#endif
#ifdef WITH_HOST
    :: KILL(HOST)
#endif
#ifdef WITH_SECOND
    :: KILL(SECOND)
#endif
#ifdef WITH_ATTACHER
    :: KILL(ATTACHER)
#endif
    OR_STOP
    fi;
    goto end_idle;
stop:
    skip
}

// --- what must hold at rest -------------------------------------------------------------------------------------------

#define IN_ORDER(p) \
    PROMISED(!held[p] || STATE(words[p]) == USED || STATE(words[p]) == RESERVED); \
    PROMISED(!held[p] || STATE(words[p]) == RESERVED || memory[p] == DATA); \
    PROMISED(STATE(words[p]) != RECYCLED || memory[p] != NONE); \
    PROMISED(STATE(words[p]) != ABSENT || memory[p] == NONE || memory[p] == MAY_BE_LEFT_BEHIND)

#ifdef WITH_HOST
// A touch may die, or come late, between an absent page's memory and its word (docs/arena.md).
#define MAY_BE_LEFT_BEHIND ZERO
#else
#define MAY_BE_LEFT_BEHIND NONE
#endif

#define OWNER_IS_DEAD(p) \
    (generations[SLOT(OWNER_READ(p, words[p]))] != GENERATION(OWNER_READ(p, words[p])) || \
     !locked[SLOT(OWNER_READ(p, words[p]))])

#ifdef BOUNDED
// All have stopped or are dead: what is left is recovered.
proctype Last() {
    LOCALS;
    BEGIN_LIFE(LAST);
    running == 0;
    do
    :: p == PAGES -> break
    :: p < PAGES ->
        if
        :: MEET_MOVING(p) -> recover_if_dead(p)
        :: else
        fi;
#ifndef STOPPED
        assert(!MOVING(words[p]));
#endif
        d_step { IN_ORDER(p); p++ }
    od
}
#else
// Whenever nobody is in the middle of something: a page that is moving has a dead owner, so that anybody recovers it.
proctype Last() {
    byte p;
end_idle:
    atomic {
        busy == 0;
        do
        :: p == PAGES -> break
        :: p < PAGES ->
            assert(!MOVING(words[p]) || OWNER_IS_DEAD(p));
            if
            :: !MOVING(words[p]) -> IN_ORDER(p)
            :: else
            fi;
            p++
        od;
        p = 0
    };
    goto end_idle
}
#endif

#define START(process, slot) locked[slot] = true; running++; run process(slot)

// What a former life of the arena may have left of a page.
init {
    byte p;
    atomic {
        do
        :: p == PAGES -> break
        :: p < PAGES ->
            if
            :: true
            :: words[p] = USED; memory[p] = DATA; held[p] = true
            :: words[p] = RECYCLED; memory[p] = DATA
            :: words[p] = RESERVED; held[p] = true
            fi;
            p++
        od;
        p = 0;
        locked[LAST] = true;
#ifdef WITH_RANGE
        START(Range, RANGE);
#endif
#ifdef WITH_CACHE
        START(Cache, CACHE);
#endif
#ifdef WITH_FREER
        START(Freer, FREER);
#endif
#ifdef WITH_HOST
        START(Host, HOST);
#endif
#ifdef WITH_SECOND
        START(WITH_SECOND, SECOND);
#endif
#ifdef WITH_ATTACHER
        running++;
        run Attacher();
#endif
        run Death();
        run Last()
    }
}

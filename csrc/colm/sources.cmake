# Shared by the extension and the unit tests. The method needs neither llama.cpp nor Python.
set(COLM_SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/batch_reader.cpp
    ${CMAKE_CURRENT_LIST_DIR}/decision.cpp
    ${CMAKE_CURRENT_LIST_DIR}/distribution.cpp
    ${CMAKE_CURRENT_LIST_DIR}/draft.cpp
    ${CMAKE_CURRENT_LIST_DIR}/engine.cpp
    ${CMAKE_CURRENT_LIST_DIR}/estimates.cpp
    ${CMAKE_CURRENT_LIST_DIR}/generation.cpp
    ${CMAKE_CURRENT_LIST_DIR}/head.cpp
    ${CMAKE_CURRENT_LIST_DIR}/policy.cpp
    ${CMAKE_CURRENT_LIST_DIR}/reader.cpp
    ${CMAKE_CURRENT_LIST_DIR}/scheduler.cpp
    ${CMAKE_CURRENT_LIST_DIR}/scorer.cpp
    ${CMAKE_CURRENT_LIST_DIR}/strategy.cpp
    ${CMAKE_CURRENT_LIST_DIR}/text_stream.cpp
    ${CMAKE_CURRENT_LIST_DIR}/vocabulary.cpp
    ${CMAKE_CURRENT_LIST_DIR}/writing.cpp)

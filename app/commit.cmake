# Sets `out` to the commit of the sources, a + behind it where files differ from it; to "" where they came without git.
find_program(PM_GIT git)
function(pm_commit source out)
  set(commit "")
  if(PM_GIT AND EXISTS ${source}/.git)
    execute_process(COMMAND ${PM_GIT} describe --always --exclude=* --abbrev=12 --dirty=+ WORKING_DIRECTORY ${source}
      OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(${out} "${commit}" PARENT_SCOPE)
endfunction()

export const SHELLS = ["bash", "zsh", "fish"] as const;

/*
 * The shells only ask: which words are possible stands in the descriptions of the commands, and `smolvm __complete` reads it
 * from there. It prints one candidate a line, with a tab and its summary behind it; a line ":path" asks for the shell's own
 * completion of paths.
 */
export const SHELL_SCRIPTS: Readonly<Record<(typeof SHELLS)[number], string>> = {
  bash: `# bash completion for smolvm
_smolvm() {
  local line word before current=\${COMP_WORDS[COMP_CWORD]}
  local -a words=()
  # Bash takes a word apart at = and :, and puts in only what comes behind the last of them.
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD}"; do
    if [[ \${#words[@]} -gt 0 && -n $word && ( $word == [=:]* || $before == *[=:] ) ]]; then
      words[\${#words[@]}-1]+=$word
    else
      words+=("$word")
    fi
    before=$word
  done
  [[ $current == [=:]* ]] && current=""
  local prefix=\${words[\${#words[@]}-1]%"$current"}
  COMPREPLY=()
  while IFS= read -r line; do
    if [ "$line" = ":path" ]; then
      compopt -o filenames
      while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
    else
      line=\${line%%$'\\t'*}
      COMPREPLY+=("\${line#"$prefix"}")
    fi
  done < <(smolvm __complete "\${words[@]}" 2>/dev/null)
}
complete -F _smolvm smolvm
`,
  zsh: `#compdef smolvm
_smolvm() {
  local line
  local -a candidates
  for line in "\${(@f)$(smolvm __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    if [[ $line == ":path" ]]; then
      compset -P '--*='
      _files
    elif [[ $line == *$'\\t'* ]]; then
      candidates+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}")
    elif [[ -n $line ]]; then
      candidates+=("\${line//:/\\\\:}")
    fi
  done
  (( \${#candidates} )) && _describe smolvm candidates
}
if [[ $funcstack[1] == _smolvm ]]; then _smolvm "$@"; else compdef _smolvm smolvm; fi
`,
  fish: `# fish completion for smolvm
function __smolvm_complete
  set -l words (commandline --tokenize --cut-at-cursor --current-process)
  set -l current (commandline --current-token --cut-at-cursor)
  set -l option (string match --regex -- '^--[^=]*=' "$current")
  for line in (smolvm __complete $words[2..] "$current" 2>/dev/null)
    if test "$line" = ":path"
      for path in (__fish_complete_path (string replace -- "$option" "" "$current"))
        printf '%s\\n' "$option$path"
      end
    else
      echo $line
    end
  end
end
complete --command smolvm --no-files --arguments "(__smolvm_complete)"
`,
};

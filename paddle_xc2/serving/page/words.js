// What the page says, in English and Chinese.

const WORDS = {
  en: {
    chat: "Chat", run: "Training run", model: "Model", examples: "Examples", question: "Your question",
    add_pictures: "Add pictures", camera: "Camera", send: "Send", stop: "Stop", settings: "Settings",
    system: "System turn (empty: the model's own)", temperature: "temperature (0: greedy)",
    repetition_penalty: "repetition penalty", max_tokens: "longest answer, tokens", seed: "seed (empty: another each time)",
    undo: "Undo last turn", reset: "New conversation", copy: "Copy", copied: "Copied", edit: "Edit",
    again: "Ask again", remove: "Remove picture", stopped: "(stopped)", cut: "(cut at the longest answer)",
    empty: "(the answer is empty)", token: "Token of this server", sample_answers: "Answers before and during training",
    predictions: "Last predictions", step: "step", before: "before", image: "picture", answer: "answer",
    expected: "expected", loss: "loss", eval_loss: "evaluation loss", learning_rate: "learning rate",
    peak_memory_gb: "memory, GB", tokens_per_second: "tokens a second", waiting: "Nothing is logged yet.",
    too_many: "At most {n} pictures.", no_picture: "This is no picture", you: "You", lost: "The server can't be reached.",
  },
  zh: {
    chat: "对话", run: "训练过程", model: "模型", examples: "示例", question: "输入您的问题",
    add_pictures: "添加图片", camera: "拍照", send: "发送", stop: "停止", settings: "设置",
    system: "系统提示（留空则用模型自带的）", temperature: "温度（0 为贪心解码）",
    repetition_penalty: "重复惩罚", max_tokens: "回答的最大长度（token）", seed: "随机种子（留空则每次不同）",
    undo: "撤销上一轮", reset: "新对话", copy: "复制", copied: "已复制", edit: "修改",
    again: "重新回答", remove: "移除图片", stopped: "（已停止）", cut: "（达到最大长度）",
    empty: "（回答为空）", token: "本服务的令牌", sample_answers: "训练前与训练中的回答",
    predictions: "最近的预测", step: "步", before: "训练前", image: "图片", answer: "回答",
    expected: "标准答案", loss: "损失", eval_loss: "评估损失", learning_rate: "学习率",
    peak_memory_gb: "显存/内存（GB）", tokens_per_second: "每秒 token 数", waiting: "尚无记录。",
    too_many: "最多 {n} 张图片。", no_picture: "这不是图片", you: "您", lost: "无法连接服务器。",
  },
};

let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export function word(name) {
  return WORDS[language][name];
}

export function showWords() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  for (const element of document.querySelectorAll("[data-word-placeholder]")) {
    element.placeholder = word(element.dataset.wordPlaceholder);
  }
  for (const element of document.querySelectorAll("[data-word-label]")) {
    element.setAttribute("aria-label", word(element.dataset.wordLabel));
  }
  const button = document.getElementById("language");
  button.textContent = language === "zh" ? "English" : "中文";
  button.lang = language === "zh" ? "en" : "zh";
}

export function changeLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  showWords();
}
